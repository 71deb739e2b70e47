-- one row per charge date, length of the charge in days, and combination of the columns of cost_daily before the costs.
-- Only charges longer than a day.
select
  source, billing_period, service_provider_name, billing_account_id, sub_account_id, region_id, service_name, charge_category, cost_kind, allocated_to,
  tracking_server, workspace, experiment_id, experiment_name, team, project, cost_center, owner, user_name, confidence, cost_status, billing_currency, charge_date, days,
  list_cost, contracted_cost, effective_cost, billed_cost
from named_charges
where days > 1
