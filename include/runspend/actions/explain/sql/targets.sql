-- One row per target of a charge, highest cost first.
select
  target_id, allocated_to, tracking_server, workspace, run_id, owner_id, allocated_ratio, list_cost, contracted_cost, effective_cost, billed_cost, billing_currency,
  match_method, confidence, pool_key, reason, weight_kind, run_end_rule, is_scaled, overhead_cost, unused_cost, cost_status, charge_date,
  charge_period_start, charge_period_end, service_name, charge_category, resource_id
from cost_allocations
where charge_id = @charge and source = @source and billing_period = @period
order by effective_cost desc, target_id
