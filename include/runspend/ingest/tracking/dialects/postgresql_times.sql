-- The times of one logged step in each interval of stride steps: the first one of the interval.
with recursive walk (run_uuid, key, step, first_step, last_step, stride) as (
  select w.run_uuid, w.key, n.step, w.first_step, w.last_step, w.stride
  from {listed} w (run_uuid, key, first_step, last_step, stride)
  cross join lateral (
    select m.step from metrics m where m.run_uuid = w.run_uuid and m.key = w.key and m.step >= w.first_step order by m.step limit 1
  ) n
  union all
  select w.run_uuid, w.key, n.step, w.first_step, w.last_step, w.stride
  from walk w
  cross join lateral (
    select m.step from metrics m
    where m.run_uuid = w.run_uuid and m.key = w.key and m.step >= w.first_step + ((w.step - w.first_step) / w.stride + 1) * w.stride
    order by m.step limit 1
  ) n
  where w.step <= w.last_step
)
select w.run_uuid, w.key, w.step::bigint, t.first_ms, t.last_ms
from walk w
cross join lateral (
  select min(timestamp)::bigint as first_ms, max(timestamp)::bigint as last_ms from metrics m
  where m.run_uuid = w.run_uuid and m.key = w.key and m.step = w.step offset 0
) t
where w.step <= w.last_step
