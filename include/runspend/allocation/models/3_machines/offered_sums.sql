-- one row per axis of charge_parts with lines of stated machines, block of these machines and bucket: their total cost
select
  match_method, target_key, window_start, window_end, source, billing_currency, cost_kind, service_name, charge_category,
  case when effective_cost > 0 then 1 when effective_cost < 0 then -1 else 0 end as cost_sign, block_number,
  count(*) as lines, count(distinct case when coalesce(effective_cost, bignumeric '0') = bignumeric '0' then resource_key end) as free_machines, sum(effective_cost) as effective_cost
from offered_lines
group by
  match_method, target_key, window_start, window_end, source, billing_currency, cost_kind, service_name, charge_category,
  cost_sign, block_number
