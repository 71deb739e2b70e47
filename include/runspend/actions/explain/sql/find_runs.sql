-- One row per run whose id begins with the given text. The range of ids lets the warehouse skip files.
select tracking_server, workspace, run_id, start_month, run_name, experiment_name, start_time
from runs
where run_id >= @first_id and run_id < @after_id
order by run_id, tracking_server, workspace
limit 200
