-- Idle and unallocated cost of the billing period by resource, largest first. Lines that do not name a resource are grouped by service.
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
-- Resources with cost that any rule allocated to runs. The cost of a disk follows its machine, and that of a pool's machine follows the pool.
-- So such resources may have allocated cost although they have no last run.
used as (
  select distinct
    billing_currency, coalesce(resource_id, pool_key, '') as resource_id,
    case when coalesce(resource_id, pool_key, '') = '' then coalesce(service_name, '') else '' end as lines_of
  from cost_allocations
  where billing_period = @first and allocated_to in ('run', 'logged_model') and match_method <> 'sharing'
    and coalesce(resource_id, pool_key, '') in (select resource_id from grouped where allocated_to = 'idle' and last_run_id is null)
),
-- The unallocated cost of each resource, to find the meter with the largest part. One line represents all lines of its charge.
lost as (
  select
    billing_currency, source, charge_id, coalesce(resource_id, pool_key, '') as resource_id,
    case when coalesce(resource_id, pool_key, '') = '' then coalesce(service_name, '') else '' end as lines_of,
    max(cost_kind) as cost_kind, sum(effective_cost) as effective_cost
  from cost_allocations
  where billing_period = @first and allocated_to = 'unallocated' and match_method <> 'sharing'
  group by
    billing_currency, source, charge_id, coalesce(resource_id, pool_key, ''),
    case when coalesce(resource_id, pool_key, '') = '' then coalesce(service_name, '') else '' end
),
one_lines as (
  select source, charge_id, min(line_id) as line_id from charge_lines where billing_period = @first group by source, charge_id
),
metered as (
  select
    l.billing_currency, l.resource_id, l.lines_of, l.cost_kind, coalesce(b.sku_meter, substr(b.charge_description, 1, 80)) as meter,
    sum(l.effective_cost) as effective_cost
  from lost l
  left join one_lines o on o.source = l.source and o.charge_id = l.charge_id
  left join (select source, line_id, sku_meter, charge_description from billing_lines where billing_period = @first) b
    on b.source = l.source and b.line_id = coalesce(o.line_id, l.charge_id)
  group by l.billing_currency, l.resource_id, l.lines_of, l.cost_kind, coalesce(b.sku_meter, substr(b.charge_description, 1, 80))
),
largest as (
  select billing_currency, resource_id, lines_of, cost_kind, meter
  from metered
  where true
  qualify row_number() over (partition by billing_currency, resource_id, lines_of order by effective_cost desc, meter, cost_kind) = 1
)
select g.*, u.resource_id is not null as has_allocated_cost, m.meter, m.cost_kind
from grouped g
left join used u on u.billing_currency = g.billing_currency and u.resource_id = g.resource_id and u.lines_of = g.lines_of
left join largest m
  on g.allocated_to = 'unallocated' and m.billing_currency = g.billing_currency and m.resource_id = g.resource_id and m.lines_of = g.lines_of
where g.effective_cost <> 0
qualify row_number() over (partition by g.billing_currency, g.allocated_to order by g.effective_cost desc, g.resource_id, g.lines_of) <= 500
order by g.billing_currency, g.allocated_to, g.effective_cost desc, g.resource_id, g.lines_of
