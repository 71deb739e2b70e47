-- one row per machine of the period: billed and used time, and the last run that used it
with billed as (
  select m.resource_key, sum(s.billed_nanoseconds) / 1e9 as billed_seconds
  from machine_slots s
  join (select distinct machine_number, resource_key from run_intervals) m on m.machine_number = s.machine_number
  group by m.resource_key
),
used as (
  select resource_key, sum(nanoseconds) / 1e9 as used_seconds
  from slot_targets
  where allocated_to = 'run'
  group by resource_key
),
last_uses as (
  select i.resource_key, i.run_id as last_run_id, i.tracking_server, i.workspace, u.used_to as last_used_at
  from (
    select machine_number, run_number, used_from, used_to
    from slot_uses
    qualify row_number() over (partition by machine_number order by used_to desc, used_from desc, run_number) = 1
  ) u
  join (select distinct machine_number, resource_key, run_number, tracking_server, workspace, run_id from run_intervals) i
    on i.machine_number = u.machine_number and i.run_number = u.run_number
  -- A machine has a separate number for each month of its charges.
  qualify row_number() over (partition by i.resource_key order by u.used_to desc, u.used_from desc, u.run_number) = 1
)
select b.resource_key, b.billed_seconds, coalesce(u.used_seconds, 0.0) as used_seconds, l.last_run_id, l.tracking_server, l.workspace, l.last_used_at
from billed b
left join used u on u.resource_key = b.resource_key
left join last_uses l on l.resource_key = b.resource_key
