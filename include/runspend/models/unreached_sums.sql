-- one row per axis of charge_parts with lines, of machines that runs state, which no run reaches: how wide they lie there together
select
  match_method, target_key, window_start, window_end, source, billing_currency, cost_kind, service_name, charge_category,
  count(distinct charge_number) as charges, case when cost_sign = 0 then count(distinct charge_number) else cast(sum(width) as int64) end as width,
  sum(effective_cost) as effective_cost
from offered_lines
where not is_reached
group by match_method, target_key, window_start, window_end, source, billing_currency, cost_kind, service_name, charge_category, cost_sign
