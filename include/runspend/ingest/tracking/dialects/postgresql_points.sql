-- The points of each metric at every stride-th step, up to its last step.
select w.run_uuid, w.key, {logged_ms} m.value::float8
from {listed} w (run_uuid, key, last_step, stride)
cross join lateral generate_series(0, w.last_step, w.stride) g (step)
cross join lateral (
  select value, timestamp from metrics m
  where m.run_uuid = w.run_uuid and m.key = w.key and m.step = g.step and not m.is_nan and m.value between {least} and {most} offset 0
) m
