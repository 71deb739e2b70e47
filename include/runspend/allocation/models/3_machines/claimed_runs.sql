-- one row per run that has its job's machines for its whole time. It claims none from a pool.
select distinct tracking_server, workspace, run_id from job_targets
