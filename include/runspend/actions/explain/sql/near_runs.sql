-- One row per similar run, newest first: its id has the same beginning, or its name contains the text.
select tracking_server, workspace, run_id, start_month, run_name, experiment_name, start_time
from runs
where starts_with(run_id, @begins) or strpos(lower(run_name), @part) > 0
order by start_time desc, run_id
limit 10
