-- one row per run id that a tag on the bill carries and a server knows
select r.run_id as run_tag, r.run_id, r.tracking_server, r.workspace, r.start_time, r.end_time, r.gpu_count, r.cpu_request, r.memory_request_gb
from runs r
join (select distinct run_tag from billing_lines where billing_period = @period and run_tag is not null) t on t.run_tag = r.run_id
qualify row_number() over (partition by r.run_id order by r.tracking_server, r.workspace) = 1
