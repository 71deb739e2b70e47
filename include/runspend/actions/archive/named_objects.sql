-- One row per run or experiment that the text may mean: a run by its id or the beginning of its id, an experiment by its id or name.
select 'run' as kind, tracking_server, workspace, run_id as id, run_name as name
from runs
where run_id = @what or (length(@what) >= 6 and starts_with(run_id, @what))
union all
select 'experiment', tracking_server, workspace, experiment_id, experiment_name
from experiments
where experiment_id = @what or experiment_name = @what
order by kind, tracking_server, workspace, id
