-- one row per machine of the period: billed and used time, and the run that used it last
with billed as (
  select resource_key, sum(billed_nanoseconds) / 1e9 as billed_seconds
  from machine_slots
  group by resource_key
),
used as (
  select resource_key, sum(nanoseconds) / 1e9 as used_seconds
  from slot_targets
  where allocated_to = 'run'
  group by resource_key
),
last_uses as (
  select resource_key, run_id as last_run_id, tracking_server, workspace, used_to as last_used_at
  from slot_uses
  qualify row_number() over (partition by resource_key order by used_to desc, used_from desc, run_id) = 1
)
select b.resource_key, b.billed_seconds, coalesce(u.used_seconds, 0.0) as used_seconds, l.last_run_id, l.tracking_server, l.workspace, l.last_used_at
from billed b
left join used u on u.resource_key = b.resource_key
left join last_uses l on l.resource_key = b.resource_key
