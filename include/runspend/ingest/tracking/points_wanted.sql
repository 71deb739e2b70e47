-- The points of metrics to read: all points of a short metric, and the points of a long metric at steps where the run logged a model.
-- From `raw_last`, `raw_uses`, `asked_runs`.
with newest as (
  select l.run_id, l.metric, l.step as last_step from raw_last l semi join asked_runs a using (run_id) where l.step > 0 and list_contains($stepped, l.metric)
)
select run_id, metric, last_step, 1 as stride from newest where last_step <= $all_steps
union all
select distinct n.run_id, n.metric, u.step, u.step
from newest n join raw_uses u on u.run_id = n.run_id and u.direction = 'output' and u.step between 1 and n.last_step
where n.last_step > $all_steps
order by run_id, metric, last_step
