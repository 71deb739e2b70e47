-- one row per axis of charge_parts that has lines of stated machines which no run reaches: the total cost of these lines
select
  match_method, target_key, window_start, window_end, source, billing_currency, cost_kind, service_name, charge_category,
  cast(sum(charges) as int64) as charges, sum(effective_cost) as effective_cost
from offered_blocks
where not is_reached
group by match_method, target_key, window_start, window_end, source, billing_currency, cost_kind, service_name, charge_category, cost_sign
