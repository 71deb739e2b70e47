-- one row per pool and window in which runs that state machines of it had them, and target of what the pool bills beside its machines: these runs, those that
-- asked the pool, and idle, by time on all machines of the pool. Who starts to state a machine leaves nobody else its disks
with uses as (
  select target_key, window_start, window_end, tracking_server, workspace, run_id, run_end_rule, weight_kind, is_ambiguous, nanoseconds
  from pool_known_uses
),
windows as (
  select distinct target_key, window_start, window_end from uses
),
parts as (
  select target_key, window_start, window_end, 'run' as allocated_to, tracking_server, workspace, run_id, run_end_rule, weight_kind, is_ambiguous, nanoseconds
  from uses
  union all
  -- what is left of the machines, as it was split
  select
    p.target_key, p.window_start, p.window_end, p.allocated_to, p.tracking_server, p.workspace, p.run_id, p.run_end_rule, p.weight_kind, false,
    cast(round((p.ratio_upto - p.ratio_before) * (w.billed_microseconds * 1000.0)) as int64)
  from pool_targets p
  join windows u on u.target_key = p.target_key and u.window_start = p.window_start and u.window_end = p.window_end
  join pools n on n.match_method = 'pool_time' and n.target_key = p.target_key
  join pool_windows w on w.pool_number = n.pool_number and w.window_start = p.window_start and w.window_end = p.window_end
  where w.billed_microseconds > 0
),
summed as (
  select
    target_key, window_start, window_end, allocated_to, tracking_server, workspace, run_id, min(run_end_rule) as run_end_rule, min(weight_kind) as weight_kind,
    logical_or(is_ambiguous) as is_ambiguous, cast(sum(nanoseconds) as int64) as nanoseconds
  from parts
  group by target_key, window_start, window_end, allocated_to, tracking_server, workspace, run_id
),
running as (
  select
    target_key, window_start, window_end, allocated_to, tracking_server, workspace, run_id, run_end_rule, weight_kind, is_ambiguous, nanoseconds,
    cast(sum(nanoseconds) over (w rows between unbounded preceding and current row) as int64) as upto,
    cast(sum(nanoseconds) over (partition by target_key, window_start, window_end) as int64) as total
  from summed
  where nanoseconds > 0
  window w as (
    partition by target_key, window_start, window_end
    order by case allocated_to when 'run' then 0 else 1 end, tracking_server, workspace, run_id)
)
select
  'pool_time' as match_method, concat(target_key, '|beside') as target_key, window_start, window_end, allocated_to, tracking_server, workspace, run_id,
  cast(null as string) as owner_id, case when allocated_to = 'idle' then 'no_run' when is_ambiguous then 'ambiguous_name' end as reason,
  weight_kind, run_end_rule, false as is_scaled, cast(null as int64) as nanoseconds,
  (upto - nanoseconds) / total as ratio_before, upto / total as ratio_upto, upto = total as is_last
from running
