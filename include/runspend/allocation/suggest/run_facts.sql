-- Facts about all runs, and about runs that were active in the time of the bills. Runs longer than 62 days are not compared.
select
  count(*) as runs, min(start_time) as first_start, max(coalesce(last_moment, start_time)) as last_moment,
  count(case when start_time < @upto and last_moment > @since then 1 end) as runs_then,
  count(
    case
      when start_time < @upto and last_moment > @since and last_moment > start_time and timestamp_diff(last_moment, start_time, microsecond) < 5356800000000
      then 1
    end
  ) as timed_runs
from (
  select start_time, coalesce(end_time, last_sign_at) as last_moment
  from runs
) r
