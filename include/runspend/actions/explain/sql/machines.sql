-- One row per charge of these resources on these days, and target: the runs that share the charge, and its idle part.
select
  source, billing_period, charge_id, target_id, charge_date, charge_period_start, charge_period_end, resource_id, service_name, charge_category, cost_kind,
  allocated_to, tracking_server, workspace, run_id, allocated_ratio, effective_cost, billing_currency, match_method, reason
from cost_allocations
where resource_id in unnest(@resources) and charge_date between @first_date and @last_date
order by charge_period_start, resource_id, charge_id, target_id
