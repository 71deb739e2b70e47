-- The points of each metric at every stride-th step, up to its last step.
with recursive wanted as (
  select column1 as run_uuid, column2 as metric, cast(column3 as signed) as last_step, cast(column4 as signed) as stride from {listed} w
),
grid as (
  select run_uuid, metric, cast(0 as signed) as step, last_step, stride from wanted
  union all
  select run_uuid, metric, step + stride, last_step, stride from grid where step + stride <= last_step
)
select g.run_uuid, g.metric, {logged_ms} m.value
from grid g straight_join metrics m force index (index_metrics_run_uuid_key_step)
  on m.run_uuid = g.run_uuid and m.key = g.metric and m.step = g.step
where cast(m.key as binary) = cast(g.metric as binary) and m.is_nan = 0 and m.value between {least} and {most}
