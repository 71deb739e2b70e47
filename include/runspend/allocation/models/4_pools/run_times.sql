-- one row per run, charge date, bill and rule: the run's own share of machine time
select source, tracking_server, workspace, run_id, charge_date, nanoseconds, gpu_nanoseconds
from machine_time
union all
select
  w.usage_source, j.tracking_server, j.workspace, j.run_id, date(j.charge_period_start),
  sum(j.nanoseconds), cast(null as int64)
from job_targets j
join job_windows w on w.job_key = j.job_key and w.charge_period_start = j.charge_period_start and w.charge_period_end = j.charge_period_end
where w.usage_source is not null and j.nanoseconds > 0
group by w.usage_source, j.tracking_server, j.workspace, j.run_id, date(j.charge_period_start)
union all
select l.source, t.tracking_server, t.workspace, t.run_id, date(t.window_start), sum(t.nanoseconds), cast(null as int64)
from pooled_targets t
join (
  -- If several bills charge the same charge period, its time counts once.
  select match_method, target_key, window_start, window_end, min(source) as source
  from (
    select match_method, target_key, window_start, window_end, source from allocated_lines
    union distinct
    select match_method, target_key, window_start, window_end, source from offered_blocks where is_reached
  )
  group by match_method, target_key, window_start, window_end
) l on l.match_method = t.match_method and l.target_key = t.target_key and l.window_start = t.window_start and l.window_end = t.window_end
where t.allocated_to = 'run' and t.nanoseconds > 0
group by l.source, t.tracking_server, t.workspace, t.run_id, date(t.window_start)
