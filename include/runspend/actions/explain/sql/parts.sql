-- One row per charge that the run has a part of, on the days it was charged.
select
  source, billing_period, charge_id, charge_date, charge_period_start, charge_period_end, service_name, charge_category, resource_id, sub_account_id,
  cost_kind, allocated_ratio, list_cost, contracted_cost, effective_cost, billed_cost, billing_currency, unused_cost, overhead_cost,
  match_method, confidence, pool_key, reason, weight_kind, run_end_rule, is_scaled, cost_status
from cost_allocations
where target_id = @target and charge_date between @first_date and @last_date
order by charge_period_start, resource_id, charge_id
