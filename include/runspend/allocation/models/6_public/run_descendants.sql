-- one row per run of the start month and descendant, even if the descendant started later.
-- Follows MLflow's parent links downwards. Runs in circular links are left out.
with recursive links as (
  select tracking_server, run_id, parent_run_id
  from runs
  where parent_run_id is not null
),
walk as (
  select l.tracking_server, l.parent_run_id as ancestor_id, l.run_id, 1 as distance
  from links l
  join (select tracking_server, run_id from runs where start_month = @period) m on m.tracking_server = l.tracking_server and m.run_id = l.parent_run_id
  union all
  select w.tracking_server, w.ancestor_id, l.run_id, w.distance + 1
  from walk w
  join links l on l.tracking_server = w.tracking_server and l.parent_run_id = w.run_id
  where w.distance < 50 and w.run_id <> w.ancestor_id
),
circles as (
  select distinct tracking_server, ancestor_id
  from walk
  where run_id = ancestor_id
)
select distinct w.tracking_server, w.ancestor_id, w.run_id
from walk w
left join circles c on c.tracking_server = w.tracking_server and c.ancestor_id = w.ancestor_id
where c.ancestor_id is null
