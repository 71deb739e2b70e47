-- One row per run: its name, and the resources it requested.
select tracking_server, workspace, run_id, run_name, gpu_count, cpu_request, memory_request_gb
from runs
where run_id in unnest(@runs)
order by run_id, tracking_server, workspace
