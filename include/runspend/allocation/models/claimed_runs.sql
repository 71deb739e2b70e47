-- one row per run that has machines of its own all its time: those of its job; it asks for none from a pool
select distinct tracking_server, workspace, run_id from job_targets
