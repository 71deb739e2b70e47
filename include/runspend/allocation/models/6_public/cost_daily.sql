-- one row per charge date and combination of the columns before the costs. Charges longer than a day are in spread_charges.
select
  source, billing_period, service_provider_name, billing_account_id, sub_account_id, region_id, service_name, charge_category, cost_kind, allocated_to,
  tracking_server, workspace, experiment_id, experiment_name, team, project, cost_center, owner, user_name, confidence, cost_status, billing_currency, charge_date, false as is_spread,
  list_cost, contracted_cost, effective_cost, billed_cost
from named_charges
where days = 1
