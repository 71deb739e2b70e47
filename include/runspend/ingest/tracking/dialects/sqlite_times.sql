-- The times of one logged step in each interval of stride steps: the first one of the interval.
-- Each index search goes from one such step to the first logged step of the next interval. A step may have been logged several times,
-- before and after a run was stopped, so its first and last time are returned.
with recursive walk (run_uuid, key, step, first_step, last_step, stride) as (
  select w.column1, w.column2, (
    select min(m.step) from metrics m indexed by index_metrics_run_uuid_key_step where m.run_uuid = w.column1 and m.key = w.column2 and m.step >= w.column3
  ), w.column3, w.column4, w.column5
  from {listed} w
  union all
  select w.run_uuid, w.key, (
    select min(m.step) from metrics m indexed by index_metrics_run_uuid_key_step
    where m.run_uuid = w.run_uuid and m.key = w.key and m.step >= w.first_step + ((w.step - w.first_step) / w.stride + 1) * w.stride
  ), w.first_step, w.last_step, w.stride
  from walk w
  where w.step <= w.last_step
)
select cast(w.run_uuid as text), cast(w.key as text), cast(w.step as integer), cast(min(m.timestamp) as integer), cast(max(m.timestamp) as integer)
from walk w cross join metrics m indexed by index_metrics_run_uuid_key_step on m.run_uuid = w.run_uuid and m.key = w.key and m.step = w.step
where w.step <= w.last_step
group by w.run_uuid, w.key, w.step
