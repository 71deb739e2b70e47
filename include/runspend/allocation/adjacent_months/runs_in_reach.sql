-- Runs between @jobs_from and @jobs_until that are outside the period's window and may have a machine or a job.
from runs r
where (r.job_key is not null or r.parent_run_id is not null or array_length(r.resource_ids) > 0)
  and r.start_time < @jobs_until and coalesce(r.end_time, greatest(coalesce(r.last_sign_at, r.start_time), timestamp_add(r.start_time, interval 31 day))) >= @jobs_from
  and (r.start_time >= @window_end or coalesce(r.end_time, greatest(coalesce(r.last_sign_at, r.start_time), timestamp_add(r.start_time, interval 31 day))) < @window_start)
