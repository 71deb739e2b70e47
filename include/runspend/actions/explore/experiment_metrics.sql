-- The last value of each metric of each run in the experiments with this name.
select m.tracking_server, m.workspace, m.run_id, m.metric, m.value
from run_metrics m
join (select distinct tracking_server, workspace, run_id from run_costs where experiment_name = @experiment) r
  on r.tracking_server = m.tracking_server and r.workspace = m.workspace and r.run_id = m.run_id
where m.model_id = '' and m.is_last
order by m.metric, m.tracking_server, m.workspace, m.run_id
