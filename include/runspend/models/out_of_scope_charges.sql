-- one row per day, account, service and category of the lines that are not the ML platform's
with sums as (
  select
    source, billing_period, charge_date, service_provider_name, billing_account_id, sub_account_id, region_id, service_name, charge_category,
    cost_kind, billing_currency, reason,
    sum(open_lines) as open_lines, min(charge_period_start) as charge_period_start, max(charge_period_end) as charge_period_end,
    sum(list_cost) as list_cost, sum(contracted_cost) as contracted_cost, sum(effective_cost) as effective_cost, sum(billed_cost) as billed_cost
  from out_of_scope_parts
  group by
    source, billing_period, charge_date, service_provider_name, billing_account_id, sub_account_id, region_id, service_name, charge_category,
    cost_kind, billing_currency, reason
)
select
  source, billing_period,
  -- '-' stands for null, so that two keys never read alike by leaving a part out
  concat(
    cast(charge_date as string), '|', coalesce(service_provider_name, '-'), '|', coalesce(billing_account_id, '-'), '|', coalesce(sub_account_id, '-'), '|',
    coalesce(region_id, '-'), '|', coalesce(service_name, '-'), '|', charge_category, '|', cost_kind, '|', billing_currency, '|', reason) as charge_id,
  'out_of_scope' as target_id,
  charge_date, charge_period_start, charge_period_end, service_provider_name, billing_account_id, sub_account_id, region_id, service_name,
  charge_category, cast(null as string) as resource_id, cast(null as string) as invoice_id, cost_kind, 'out_of_scope' as allocated_to,
  cast(null as string) as tracking_server, cast(null as string) as workspace, cast(null as string) as run_id,
  1.0 as allocated_ratio, list_cost, contracted_cost, effective_cost, billed_cost, billing_currency,
  cast(null as bignumeric) as unused_cost, 'none' as match_method, cast(null as string) as confidence, reason,
  cast(null as string) as weight_kind, cast(null as string) as run_end_rule, false as is_scaled,
  case when open_lines > 0 then 'provisional' else 'final' end as cost_status
from sums
