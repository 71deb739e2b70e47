-- one row per run that has machines of its job for its whole time, so that it claims no machines of a pool.
select distinct tracking_server, workspace, run_id from job_targets
