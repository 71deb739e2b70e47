-- one row per line that no machine rule allocates and key by which it may be attached, closest first,
-- with its charge period (an hour if it fits in one).
-- A line of a pool, or of a machine itself, is not attached to a group of stated machines, because some members of a group show nothing about
-- the others. A line of a pool is also not attached to a machine of that pool that runs or a job use.
-- `is_late`: no other rule may allocate the line, so pools and instance types first decide which runs use its machines.
with machine_keys as (
  select distinct target_key from attach_keys
),
job_keys as (
  select distinct target_key from job_attached_parts
  union distinct
  select distinct target_key from job_tails
),
parts as (
  select target_key, true as is_of_machine from machine_keys
  union all
  select j.target_key, false
  from job_keys j
  left join machine_keys m on m.target_key = j.target_key
  where m.target_key is null
),
machines as (
  select resource_key
  from rest_lines
  where resource_key is not null and cost_kind = 'compute' and charge_category = 'Usage' and (instance_type is not null or billed_nanoseconds > 0)
  union distinct
  select resource_key
  from offered_machines
  where likeness = 1
  union distinct
  -- A late line has neither the type nor the time of its machine.
  select r.resource_key
  from rest_lines r
  join (
    select resource_key as named from earlier_times
    union distinct
    select resource_key
    from earlier_properties
    where instance_type is not null or machine_gpus is not null or machine_cpus is not null or machine_memory_gb is not null
  ) e on e.named = r.resource_key
  where r.cost_kind = 'compute'
),
pooled_machines as (
  -- A pool's disk on a machine of that pool serves all users of the pool, not only the runs that state the machine.
  select distinct l.resource_key, l.pool_key
  from billing_lines l
  join (select distinct attached_to, pool_key from rest_lines where attached_to is not null and pool_key is not null) d
    on d.attached_to = l.resource_key and d.pool_key = l.pool_key
  where l.billing_period = @period
),
windows as (
  select
    l.source, l.line_id, l.region_id, o.resource_key is not null as is_pooled, l.attached_to, l.group_keys, array_to_string(l.group_keys, chr(31)) as group_text, l.charge_period_start, l.charge_period_end,
    l.charge_period_end <= timestamp_add(timestamp_trunc(l.charge_period_start, hour), interval 1 hour) as is_in_an_hour,
    l.pool_key is not null or m.resource_key is not null as is_of_pool_or_machine,
    l.pool_key is null and l.instance_type is null and l.storage_key is null and l.cost_kind <> 'llm' and m.resource_key is null as is_late
  from rest_lines l
  left join machines m on m.resource_key = l.resource_key
  left join pooled_machines o on o.resource_key = l.attached_to and o.pool_key = l.pool_key
  where l.charge_period_end > l.charge_period_start
    and at_most_a_day(l.charge_period_start, l.charge_period_end)
    and (l.attached_to is not null or array_length(l.group_keys) > 0)
    and coalesce(l.scope, '') <> 'exclude'
),
keyed as (
  select source, line_id, concat('machine|', attached_to) as target_key, 0 as distance, is_pooled as is_of_pool_or_machine, is_late, is_in_an_hour, charge_period_start, charge_period_end
  from windows
  where attached_to is not null
  union all
  select
    w.source, w.line_id, case when r.region_id is null then key else concat(key, '|', r.region_id) end,
    strpos(concat(chr(31), w.group_text, chr(31)), concat(chr(31), key, chr(31))), w.is_of_pool_or_machine, w.is_late, w.is_in_an_hour, w.charge_period_start, w.charge_period_end
  from windows w
  cross join unnest(w.group_keys) as key
  left join group_regions r on r.group_key = key and r.region_id = w.region_id
)
select
  k.source, k.line_id, k.target_key, k.distance, k.is_of_pool_or_machine, k.is_late,
  case when k.is_in_an_hour then timestamp_trunc(k.charge_period_start, hour) else k.charge_period_start end as window_start,
  case when k.is_in_an_hour then timestamp_add(timestamp_trunc(k.charge_period_start, hour), interval 1 hour) else k.charge_period_end end as window_end
from keyed k
join parts p on p.target_key = k.target_key
where not k.is_of_pool_or_machine or (not p.is_of_machine and k.distance > 0)
