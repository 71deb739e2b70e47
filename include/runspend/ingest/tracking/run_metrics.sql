-- The metrics of the runs of one start month, one row per step: the newest values, the other values read now, and the earlier values
-- of runs that were not read again. If a step has several values, the newest counts, as in MLflow.
-- From `raw_last`, `raw_points`, `raw_model_points`, `previous_links`, `fresh_runs`, `asked_runs`.
with runs as (
  select workspace, run_id, start_month from fresh_runs where start_month = cast($month as date)
),
points as (
  select run_id, model_id, metric, step, value, logged_ms, true as is_last from raw_last
  union all
  select run_id, model_id, metric, step, value, logged_ms, false from raw_points
  union all
  select run_id, model_id, metric, step, value, logged_ms, false from raw_model_points
  union all
  select run_id, model_id, metric, step, value, null, false from previous_links p
  where model_id = '' and list_contains($metrics, metric) and not exists (select 1 from asked_runs a where a.run_id = p.run_id)
),
placed as (
  select r.workspace, r.start_month, t.*
  from points t join runs r using (run_id)
  qualify row_number() over (partition by r.workspace, t.run_id, t.model_id, t.metric, t.step order by t.is_last desc, t.logged_ms desc nulls last, t.value desc) = 1
)
select $server as tracking_server, workspace, run_id, start_month, model_id, metric, step, value, is_last, $load_id as load_id
from placed
order by run_id, model_id, metric, step, workspace
