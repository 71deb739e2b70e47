-- one row per day, account, service and category of the lines that are out of scope
with parts as (
  select
    source, billing_period, charge_date, service_provider_name, billing_account_id, sub_account_id, region_id, service_name, charge_category,
    cost_kind, billing_currency, reason, charge_period_start, charge_period_end, list_cost, contracted_cost, effective_cost, billed_cost
  from out_of_scope_parts
  union all
  -- Lines that the rules for pools and instance types could have allocated but did not.
  select
    l.source, l.billing_period, l.charge_date, l.service_provider_name, l.billing_account_id, l.sub_account_id, l.region_id, l.service_name, l.charge_category,
    l.cost_kind, l.billing_currency, case when l.scope is null then 'default_scope' else 'explicit_scope' end,
    l.charge_period_start, l.charge_period_end, l.list_cost, l.contracted_cost, l.effective_cost, l.billed_cost
  from rest_lines l
  left join allocated_lines s on s.source = l.source and s.line_id = l.line_id
  where s.line_id is null and not l.is_inside
),
sums as (
  select
    source, billing_period, charge_date, service_provider_name, billing_account_id, sub_account_id, region_id, service_name, charge_category,
    cost_kind, billing_currency, reason,
    min(charge_period_start) as charge_period_start, max(charge_period_end) as charge_period_end,
    sum(list_cost) as list_cost, sum(contracted_cost) as contracted_cost, sum(effective_cost) as effective_cost, sum(billed_cost) as billed_cost
  from parts
  group by
    source, billing_period, charge_date, service_provider_name, billing_account_id, sub_account_id, region_id, service_name, charge_category,
    cost_kind, billing_currency, reason
)
select
  s.source, s.billing_period,
  -- As in pooled_lines: a string is written as '=' and the string with every '|' doubled; null is written as '-'.
  concat(
    cast(charge_date as string), '|', coalesce(concat('=', replace(service_provider_name, '|', '||')), '-'), '|', coalesce(concat('=', replace(billing_account_id, '|', '||')), '-'), '|',
    coalesce(concat('=', replace(sub_account_id, '|', '||')), '-'), '|', coalesce(concat('=', replace(region_id, '|', '||')), '-'), '|',
    coalesce(concat('=', replace(service_name, '|', '||')), '-'), '|', '=', replace(charge_category, '|', '||'), '|', cost_kind, '|',
    '=', replace(billing_currency, '|', '||'), '|', reason) as charge_id,
  'out_of_scope' as target_id,
  charge_date, charge_period_start, charge_period_end, service_provider_name, billing_account_id, sub_account_id, region_id, service_name,
  charge_category, cast(null as string) as resource_id, cast(null as string) as invoice_id, cost_kind, 'out_of_scope' as allocated_to,
  cast(null as string) as tracking_server, cast(null as string) as workspace, cast(null as string) as run_id,
  cast(null as string) as owner_id, 1.0 as allocated_ratio, list_cost, contracted_cost, effective_cost, billed_cost, billing_currency,
  cast(null as bignumeric) as unused_cost, cast(null as bignumeric) as overhead_cost,
  'none' as match_method, cast(null as string) as confidence, cast(null as string) as pool_key, reason,
  cast(null as string) as weight_kind, cast(null as string) as run_end_rule, false as is_scaled,
  case when p.state in ('final', 'closed') then 'final' else 'provisional' end as cost_status,
  cast(null as string) as line_team, cast(null as string) as line_project, cast(null as string) as line_cost_center, cast(null as string) as line_owner
from sums s
left join period_states p on p.source = s.source and p.billing_period = s.billing_period
