-- one row per instance type asked for by a run that has no machine of its own all its time
with identified as (
  select tracking_server, workspace, run_id from claimed_runs
  union distinct
  select r.tracking_server, r.workspace, r.run_id
  from window_runs r
  join run_spans s on s.tracking_server = r.tracking_server and s.workspace = r.workspace and s.run_id = r.run_id
  where s.span_start <= greatest(r.start_time, @window_start) and (r.end_time is null or s.span_end >= least(r.end_time, @window_end))
),
asking as (
  select r.tracking_server, r.run_id, r.instance_type
  from window_runs r
  left join identified i on i.tracking_server = r.tracking_server and i.workspace = r.workspace and i.run_id = r.run_id
  where i.run_id is null
)
select distinct lower(instance_type) as instance_type
from asking
where instance_type is not null
union distinct
-- a run that states no type has that of an ancestor
select distinct lower(h.instance_type)
from asking r
join run_ancestors a on a.tracking_server = r.tracking_server and a.run_id = r.run_id
join runs h on h.tracking_server = a.tracking_server and h.run_id = a.ancestor_id
where r.instance_type is null and h.instance_type is not null
