-- The time of one logged step per stride.
-- From one logged step to the first one of the next stride, with one index search each. A step may have been logged twice, before and
-- after a run was stopped.
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
