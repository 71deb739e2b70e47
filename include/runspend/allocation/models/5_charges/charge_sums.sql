-- one row per charge of a rule that prices lines together: the sum of its lines
select
  source, billing_period, charge_id, match_method, target_key, window_start, window_end, charge_date, service_provider_name, billing_account_id,
  sub_account_id, region_id, service_name, charge_category, invoice_id, cost_kind, billing_currency, is_inside, known_by,
  line_team, line_project, line_cost_center, line_owner,
  max(scope) as scope,
  min(charge_period_start) as charge_period_start, max(charge_period_end) as charge_period_end,
  case when min(coalesce(resource_id, '')) = max(coalesce(resource_id, '')) then max(resource_id) end as resource_id,
  sum(list_cost) as list_cost, sum(contracted_cost) as contracted_cost, sum(effective_cost) as effective_cost, sum(billed_cost) as billed_cost
from pooled_lines
group by
  source, billing_period, charge_id, match_method, target_key, window_start, window_end, charge_date, service_provider_name, billing_account_id,
  sub_account_id, region_id, service_name, charge_category, invoice_id, cost_kind, billing_currency, is_inside, known_by,
  line_team, line_project, line_cost_center, line_owner
