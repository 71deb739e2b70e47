-- one row per machine stated by a run with hours to estimate, and per instance type that such a run asks for. These need a price
with earliest as (
  select coalesce(min(billed_until), @month_start) as billed_until from estimate_frontiers
),
open_runs as (
  select w.tracking_server, w.run_id, t.instance_type
  from window_runs w
  left join type_claims t on t.tracking_server = w.tracking_server and t.run_id = w.run_id
  cross join earliest e
  where coalesce(w.end_time, @now) > e.billed_until
)
select s.resource_key, cast(null as string) as instance_type
from stated_machines s
join open_runs o on o.tracking_server = s.tracking_server and o.run_id = s.run_id
union distinct
select s.resource_key, cast(null as string)
from run_ancestors a
join open_runs o on o.tracking_server = a.tracking_server and o.run_id = a.run_id
join stated_machines s on s.tracking_server = a.tracking_server and s.run_id = a.ancestor_id
union distinct
select cast(null as string), instance_type
from open_runs
where instance_type is not null
