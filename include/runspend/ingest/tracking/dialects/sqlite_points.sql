-- The points of each metric at every stride-th step, up to its last step.
-- The grid of steps drives the join, with one index search per step, even if the planner's statistics suggest another plan.
with wanted (run_uuid, key, last_step, stride) as {listed},
grid (run_uuid, key, step, last_step, stride) as (
  select run_uuid, key, 0, last_step, stride from wanted
  union all
  select run_uuid, key, step + stride, last_step, stride from grid where step + stride <= last_step
)
select cast(g.run_uuid as text), cast(g.key as text), {logged_ms} cast(m.value as real)
from grid g cross join metrics m indexed by index_metrics_run_uuid_key_step on m.run_uuid = g.run_uuid and m.key = g.key and m.step = g.step
where m.is_nan = 0 and m.value between {least} and {most}
