-- one row per run of the window and ancestor.
-- Follows MLflow's parent links upwards; leaves out circular links and missing parents.
with recursive links as (
  select tracking_server, run_id, parent_run_id
  from runs
  where parent_run_id is not null
),
walk as (
  select l.tracking_server, l.run_id, l.parent_run_id as ancestor_id, 1 as distance
  from links l
  join window_runs w on w.tracking_server = l.tracking_server and w.run_id = l.run_id
  union all
  select w.tracking_server, w.run_id, l.parent_run_id, w.distance + 1
  from walk w
  join links l on l.tracking_server = w.tracking_server and l.run_id = w.ancestor_id
  where w.distance < 50 and w.ancestor_id <> w.run_id
),
circles as (
  select distinct tracking_server, run_id
  from walk
  where ancestor_id = run_id
),
-- If a run leads to a circle of parents without being part of it, the walk reaches the runs of the circle twice.
loops as (
  select distinct tracking_server, ancestor_id
  from walk
  group by tracking_server, run_id, ancestor_id
  having count(*) > 1
)
select w.tracking_server, w.run_id, w.ancestor_id, min(w.distance) as distance
from walk w
join runs a on a.tracking_server = w.tracking_server and a.run_id = w.ancestor_id
left join circles c on c.tracking_server = w.tracking_server and c.run_id = w.run_id
left join loops d on d.tracking_server = w.tracking_server and d.ancestor_id = w.ancestor_id
where c.run_id is null and d.ancestor_id is null
group by w.tracking_server, w.run_id, w.ancestor_id
