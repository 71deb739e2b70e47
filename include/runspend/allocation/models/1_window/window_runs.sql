-- one row per run that ran, or may have run, between @window_start and @window_end, or during a job that extends beyond them.
select
  tracking_server, workspace, run_id, start_time, end_time, last_sign_at, artifact_uri,
  gpu_count, cpu_request, memory_request_gb, mean_use_percent, instance_type, num_nodes, job_key, principal_key, pool_key,
  sub_account_id as stated_account, region_id as stated_region, availability_zone as stated_zone, purchase_option as stated_option,
  -- Rules that do not depend on the bill: the end time is in the future, or the run was stopped and resumed.
  -- Null: the rule depends on the time until which the bills are complete.
  case when future_end_time is not null then 'future' when gap_seconds > 0 then 'resumed' end as run_end_rule
from runs
where start_time < greatest(@window_end, @jobs_until)
  and coalesce(end_time, greatest(coalesce(last_sign_at, start_time), timestamp_add(start_time, interval 31 day))) >= least(@window_start, @jobs_from)
