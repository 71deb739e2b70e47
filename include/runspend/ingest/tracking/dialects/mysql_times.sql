-- The times of one logged step in each interval of stride steps: the first one of the interval.
with recursive wanted as (
  select column1 as run_uuid, column2 as metric, cast(column3 as signed) as first_step, cast(column4 as signed) as last_step,
         cast(column5 as signed) as stride
  from {listed} w
),
walk as (
  select w.run_uuid, w.metric, (
    select min(m.step) from metrics m force index (index_metrics_run_uuid_key_step)
    where m.run_uuid = w.run_uuid and m.key = w.metric and m.step >= w.first_step
  ) as step, w.first_step, w.last_step, w.stride
  from wanted w
  union all
  select w.run_uuid, w.metric, (
    select min(m.step) from metrics m force index (index_metrics_run_uuid_key_step)
    where m.run_uuid = w.run_uuid and m.key = w.metric and m.step >= w.first_step + ((w.step - w.first_step) div w.stride + 1) * w.stride
  ), w.first_step, w.last_step, w.stride
  from walk w
  where w.step <= w.last_step
)
select w.run_uuid, w.metric, w.step, min(m.timestamp), max(m.timestamp)
from walk w straight_join metrics m force index (index_metrics_run_uuid_key_step)
  on m.run_uuid = w.run_uuid and m.key = w.metric and m.step = w.step
where w.step <= w.last_step
group by w.run_uuid, w.metric, w.step
