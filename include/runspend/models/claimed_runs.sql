-- one row per run that has machines of its own all its time: those of its job, or those tagged with its id; it asks for none from a pool
select distinct tracking_server, workspace, run_id from job_targets
union distinct
select distinct g.tracking_server, g.workspace, g.run_id
from tagged_runs g
join billing_lines l on l.run_tag = g.run_id
where l.billing_period = @period and l.billed_nanoseconds > 0
