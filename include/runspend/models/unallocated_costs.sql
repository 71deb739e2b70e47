-- one row per resource, service, account, target and currency of a billing period: idle and unmatched money
with sums as (
  select
    source, billing_period, allocated_to, coalesce(resource_id, pool_key, '') as resource_id, coalesce(service_name, '') as service_name,
    coalesce(sub_account_id, '') as sub_account_id, billing_currency,
    max(region_id) as region_id, min(reason) as reason,
    sum(list_cost) as list_cost, sum(contracted_cost) as contracted_cost, sum(effective_cost) as effective_cost, sum(billed_cost) as billed_cost
  from cost_allocations
  where billing_period = @period and allocated_to in ('idle', 'unmatched') and match_method <> 'sharing'
  group by source, billing_period, allocated_to, coalesce(resource_id, pool_key, ''), coalesce(service_name, ''), coalesce(sub_account_id, ''), billing_currency
),
resources as (
  select source, resource_id, min(resource_key) as resource_key, max(instance_type) as instance_type
  from billing_lines
  where billing_period = @period and resource_id is not null
  group by source, resource_id
)
select
  s.source, s.billing_period, s.allocated_to, s.resource_id, s.service_name, s.sub_account_id, s.billing_currency, r.instance_type, s.region_id,
  s.list_cost, s.contracted_cost, s.effective_cost, s.billed_cost, u.billed_seconds, u.used_seconds, u.last_run_id, u.last_used_at,
  coalesce(o.owner, o.user_name) as suspected_owner, s.reason
from sums s
left join resources r on r.source = s.source and r.resource_id = s.resource_id
left join machine_use u on u.resource_key = r.resource_key
left join runs o on o.tracking_server = u.tracking_server and o.workspace = u.workspace and o.run_id = u.last_run_id
