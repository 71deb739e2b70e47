-- one row per run that was, or may have been, running between @window_start and @window_end, or while a job went on beyond them
select
  tracking_server, workspace, run_id, parent_run_id, start_time, end_time, last_sign_at, artifact_uri, experiment_id,
  gpu_count, cpu_request, memory_request_gb, mean_use_percent, instance_type, num_nodes, job_key, principal_key, pool_key,
  sub_account_id as stated_account, region_id as stated_region, availability_zone as stated_zone, purchase_option as stated_option,
  -- what the rows of a run say that was told by a wild clock, or was stopped in between, wherever it was; null: it depends on what bills reach
  case when future_end_time is not null then 'future' when gap_seconds > 0 then 'resumed' end as run_end_rule
from runs
where start_time < greatest(@window_end, @jobs_until)
  and coalesce(end_time, greatest(coalesce(last_sign_at, start_time), timestamp_add(start_time, interval 31 day))) >= least(@window_start, @jobs_from)
