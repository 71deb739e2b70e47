-- one row per charge of attached lines: the sum of its lines. Its targets are known only after all machines have been priced.
select
  source, billing_period, charge_id, target_key, window_start, window_end, charge_date, service_provider_name, billing_account_id,
  sub_account_id, region_id, service_name, charge_category, invoice_id, cost_kind, billing_currency, is_inside,
  line_team, line_project, line_cost_center, line_owner,
  scope, charge_period_start, charge_period_end, resource_id,
  list_cost, contracted_cost, effective_cost, billed_cost
from charge_sums
where match_method = 'attached'
