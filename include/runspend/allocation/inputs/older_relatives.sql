-- Start months of the ancestors of runs, by start month of the runs. A child may use the machine of a parent that started long ago.
with recursive walk as (
  select distinct tracking_server, start_month, parent_run_id as run_id, 1 as distance
  from runs
  where parent_run_id is not null
  union all
  select w.tracking_server, w.start_month, r.parent_run_id, w.distance + 1
  from walk w
  join runs r on r.tracking_server = w.tracking_server and r.run_id = w.run_id
  where r.parent_run_id is not null and w.distance < 50
)
select distinct w.tracking_server, w.start_month, r.start_month as older_month
from walk w
join runs r on r.tracking_server = w.tracking_server and r.run_id = w.run_id
where r.start_month <> w.start_month
