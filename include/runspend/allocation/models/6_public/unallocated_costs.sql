-- one row per resource, service, account, target and currency of a billing period: idle and unallocated cost
with sums as (
  select
    source, billing_period, allocated_to, coalesce(resource_id, pool_key, '') as resource_id, coalesce(service_name, '') as service_name,
    coalesce(sub_account_id, '') as sub_account_id, billing_currency,
    max(region_id) as region_id, min(reason) as reason,
    sum(list_cost) as list_cost, sum(contracted_cost) as contracted_cost, sum(effective_cost) as effective_cost, sum(billed_cost) as billed_cost
  from cost_allocations
  where billing_period = @period and allocated_to in ('idle', 'unallocated') and match_method <> 'sharing'
  group by source, billing_period, allocated_to, coalesce(resource_id, pool_key, ''), coalesce(service_name, ''), coalesce(sub_account_id, ''), billing_currency
),
given as (
  -- For a machine that some runs state: the part that was used by runs which state only a pool or a type.
  select
    source, resource_id, sum(effective_cost) as cost,
    sum(case when allocated_to = 'run' and match_method in ('pool_time', 'instance_type_time') then effective_cost end) as given_cost
  from cost_allocations
  where billing_period = @period and resource_id is not null and match_method in ('resource_id', 'pool_time', 'instance_type_time')
  group by source, resource_id
  having sum(case when allocated_to = 'run' and match_method in ('pool_time', 'instance_type_time') then effective_cost end) > 0 and sum(effective_cost) > 0
),
resources as (
  select source, resource_id, min(resource_key) as resource_key, max(instance_type) as instance_type
  from billing_lines
  where billing_period = @period and resource_id is not null
  group by source, resource_id
)
select
  s.source, s.billing_period, s.allocated_to, s.resource_id, s.service_name, s.sub_account_id, s.billing_currency, r.instance_type, s.region_id,
  s.list_cost, s.contracted_cost, s.effective_cost, s.billed_cost, u.billed_seconds,
  -- For such machines, time is split like cost.
  case
    when g.resource_id is null then u.used_seconds
    else least(u.billed_seconds, u.used_seconds + u.billed_seconds * cast(cast(g.given_cost as string) as float64) / cast(cast(g.cost as string) as float64))
  end as used_seconds,
  u.last_run_id, u.last_used_at,
  coalesce(o.owner, o.user_name) as suspected_owner, s.reason
from sums s
left join resources r on r.source = s.source and r.resource_id = s.resource_id
left join given g on g.source = s.source and g.resource_id = s.resource_id
left join machine_use u on u.resource_key = r.resource_key
left join runs o on o.tracking_server = u.tracking_server and o.workspace = u.workspace and o.run_id = u.last_run_id
