-- one row per day, account, service and category of lines that are out of scope, for one shard of machines
select
  source, billing_period, charge_date, service_provider_name, billing_account_id, sub_account_id, region_id, service_name, charge_category,
  cost_kind, billing_currency,
  case when scope is null then 'default_scope' else 'explicit_scope' end as reason,
  min(charge_period_start) as charge_period_start, max(charge_period_end) as charge_period_end,
  sum(list_cost) as list_cost, sum(contracted_cost) as contracted_cost, sum(effective_cost) as effective_cost, sum(billed_cost) as billed_cost
from ledger_lines
where not is_inside and allocated_by <> 'rest'
group by
  source, billing_period, charge_date, service_provider_name, billing_account_id, sub_account_id, region_id, service_name, charge_category,
  cost_kind, billing_currency, reason
