-- one row per axis of charge_parts with lines of stated machines that no run reaches: their total cost
select
  match_method, target_key, window_start, window_end, source, billing_currency, cost_kind, service_name, charge_category,
  cast(sum(charges) as int64) as charges, sum(effective_cost) as effective_cost
from offered_blocks
where not is_reached
group by match_method, target_key, window_start, window_end, source, billing_currency, cost_kind, service_name, charge_category, cost_sign
