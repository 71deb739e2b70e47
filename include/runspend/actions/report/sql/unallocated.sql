-- Idle and unallocated cost of the billing period by resource (by service where lines name no resource), largest first.
with ranked as (
  select
    *,
    case when resource_id = '' then service_name else '' end as lines_of,
    row_number() over (
      partition by billing_currency, allocated_to, resource_id, case when resource_id = '' then service_name else '' end
      order by last_used_at desc, effective_cost desc, source, service_name, sub_account_id
    ) as place
  from unallocated_costs
  where billing_period = @first
),
grouped as (
  select
    billing_currency, allocated_to, resource_id, lines_of,
    sum(effective_cost) as effective_cost, max(billed_seconds) as billed_seconds, max(used_seconds) as used_seconds,
    max(case when place = 1 then service_name end) as service_name,
    max(instance_type) as instance_type, max(region_id) as region_id,
    max(case when place = 1 then last_run_id end) as last_run_id,
    max(case when place = 1 then last_used_at end) as last_used_at,
    max(case when place = 1 then suspected_owner end) as suspected_owner,
    max(case when place = 1 then reason end) as reason
  from ranked
  group by billing_currency, allocated_to, resource_id, lines_of
),
-- Cost allocated to runs by any rule: a disk follows its machine, and a pool's machine its pool, so neither has its own last run.
used as (
  select distinct
    billing_currency, coalesce(resource_id, pool_key, '') as resource_id,
    case when coalesce(resource_id, pool_key, '') = '' then coalesce(service_name, '') else '' end as lines_of
  from cost_allocations
  where billing_period = @first and allocated_to in ('run', 'logged_model') and match_method <> 'sharing'
    and coalesce(resource_id, pool_key, '') in (select resource_id from grouped where allocated_to = 'idle' and last_run_id is null)
)
select g.*, u.resource_id is not null as has_allocated_cost
from grouped g
left join used u on u.billing_currency = g.billing_currency and u.resource_id = g.resource_id and u.lines_of = g.lines_of
where g.effective_cost <> 0
qualify row_number() over (partition by g.billing_currency, g.allocated_to order by g.effective_cost desc, g.resource_id, g.lines_of) <= 500
order by g.billing_currency, g.allocated_to, g.effective_cost desc, g.resource_id, g.lines_of
