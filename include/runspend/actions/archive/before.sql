-- One row per policy, run and storage class of the newest plan before this one.
select
  month,
  policy,
  tracking_server,
  workspace,
  run_id,
  storage_class,
  state,
  earliest_at
from archive_plan
where month >= @since
  and month <= @until
  and policy = @policy
order by month
