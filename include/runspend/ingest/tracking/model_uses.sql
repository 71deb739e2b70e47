-- The models that the runs of one start month made or used. Uses of runs that were not read again come from the earlier rows.
-- From `raw_uses`, `previous_links`, `fresh_runs`, `asked_runs`.
with runs as (
  select workspace, run_id, start_month from fresh_runs where start_month = cast($month as date)
),
uses as (
  select run_id, model_id, direction, nullif(step, -1) as step from raw_uses where model_id <> ''
  union all
  select run_id, model_id, direction, step from previous_links p where direction = 'input' and not exists (select 1 from asked_runs a where a.run_id = p.run_id)
)
select $server as tracking_server, r.workspace, r.run_id, r.start_month, t.model_id, t.direction, max(t.step) as step, $load_id as load_id
from uses t join runs r using (run_id)
group by all
order by run_id, model_id, direction, workspace
