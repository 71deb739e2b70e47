-- Runs of other months that jobs of the period reach.
select
  {run_columns}, r.future_end_time, r.gaps, r.last_sign_at, r.mean_use_percent, r.parent_run_id, r.job_key, r.instance_type, r.pool_key
{runs_in_reach}
order by r.tracking_server, r.workspace, r.run_id
