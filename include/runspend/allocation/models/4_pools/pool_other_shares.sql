-- one row per pool, charge period and target of the pool's other charges (disks, addresses, traffic). There are rows only for charge periods
-- in which runs had machines of the pool by tag, job or id, or in which the machines are billed for a different length of time.
-- The targets are these runs, runs with claims on the pool, and idle time. They share by time on all machines of the pool.
-- A run that starts to state its machine therefore keeps its part of the disks; the other runs do not get it.
-- If machines are billed by the hour, daily charges are split by all hours of the day. If machines are billed by the day, hourly charges are
-- split by the part of that hour.
-- Idle is the time on these machines that no run used, as in pools in which no run states its machine.
with pieces as (
  select
    target_key, window_start, window_end, is_part, 'run' as allocated_to, tracking_server, workspace, run_id, run_end_rule, weight_kind, is_ambiguous, nanoseconds,
    true as is_known
  from pool_known_uses
  union all
  -- The time on the other machines, split between claims and idle.
  select
    p.target_key, p.window_start, p.window_end, false, p.allocated_to, p.tracking_server, p.workspace, p.run_id, p.run_end_rule, p.weight_kind, false,
    cast(round((p.ratio_to - p.ratio_from) * (w.billed_microseconds * 1000.0)) as int64), false
  from pool_targets p
  join pools_with_other_charges u on u.target_key = p.target_key
  join pools n on n.match_method = 'pool_time' and n.target_key = p.target_key
  join pool_windows w on w.pool_number = n.pool_number and w.window_start = p.window_start and w.window_end = p.window_end
  where w.billed_microseconds > 0
  union all
  select
    target_key, hour_start, timestamp_add(hour_start, interval 1 hour), true, 'run', tracking_server, workspace, run_id, run_end_rule, weight_kind, false,
    nanoseconds, false
  from pool_day_hours
),
day_totals as (
  -- All time of machines that are billed for more than an hour.
  select target_key, window_start, window_end, sum(nanoseconds) as nanoseconds
  from pieces
  where not is_part and window_end > timestamp_add(timestamp_trunc(window_start, hour), interval 1 hour)
  group by target_key, window_start, window_end
),
windows as (
  select distinct c.target_key, c.window_start, c.window_end
  from timed_candidates c
  join pools_with_other_charges u on u.target_key = c.target_key
  join pools n on n.match_method = 'pool_time' and n.target_key = c.target_key
  where c.match_method = 'pool_time' and c.cost_kind <> 'compute'
),
window_hours as (
  -- Charge periods are joined by the hour in which the inner one begins. By pool only, each would be compared with all others.
  select w.target_key, w.window_start, w.window_end, hour_number
  from windows w
  cross join unnest(hours_between(w.window_start, w.window_end)) as hour_number
),
parts as (
  select
    w.target_key, w.window_start, w.window_end, p.allocated_to, p.tracking_server, p.workspace, p.run_id, p.run_end_rule, p.weight_kind, p.is_ambiguous, p.nanoseconds,
    p.is_known or p.is_part or p.window_start <> w.window_start or p.window_end <> w.window_end as needs_split
  from window_hours w
  join pieces p
    on p.target_key = w.target_key and hour_of(p.window_start) = w.hour_number and p.window_start >= w.window_start and p.window_end <= w.window_end
  where not p.is_part or w.window_end <= timestamp_add(timestamp_trunc(w.window_start, hour), interval 1 hour)
),
hours_used as (
  select target_key, window_start, window_end, sum(nanoseconds) as nanoseconds
  from pieces
  where is_part
  group by target_key, window_start, window_end
),
hours_billed as (
  -- The part of an hour in the time of machines that are billed by the day.
  select
    w.target_key, w.window_start, w.window_end,
    sum(t.nanoseconds * (timestamp_diff(w.window_end, w.window_start, microsecond) / timestamp_diff(t.window_end, t.window_start, microsecond))) as nanoseconds
  from windows w
  join day_totals t on t.target_key = w.target_key and t.window_start < w.window_end and t.window_end > w.window_start
  where w.window_end <= timestamp_add(timestamp_trunc(w.window_start, hour), interval 1 hour)
  group by w.target_key, w.window_start, w.window_end
),
hours_idle as (
  -- The part that runs leave, unless unused time of the pool belongs to the runs.
  select b.target_key, b.window_start, b.window_end, cast(round(b.nanoseconds - coalesce(u.nanoseconds, 0)) as int64) as nanoseconds
  from hours_billed b
  left join hours_used u on u.target_key = b.target_key and u.window_start = b.window_start and u.window_end = b.window_end
  where strpos(@rented_pools, concat('|', regexp_extract(b.target_key, r'^[^|]*'), '|')) = 0
),
all_parts as (
  select target_key, window_start, window_end, allocated_to, tracking_server, workspace, run_id, run_end_rule, weight_kind, is_ambiguous, nanoseconds, needs_split
  from parts
  union all
  select
    target_key, window_start, window_end, 'idle', cast(null as string), cast(null as string), cast(null as string), cast(null as string), cast(null as string),
    false, nanoseconds, true
  from hours_idle
  where nanoseconds > 0
),
summed as (
  select
    target_key, window_start, window_end, allocated_to, tracking_server, workspace, run_id, min(run_end_rule) as run_end_rule, min(weight_kind) as weight_kind,
    logical_or(is_ambiguous) as is_ambiguous, logical_or(needs_split) as needs_split, cast(sum(nanoseconds) as int64) as nanoseconds
  from all_parts
  group by target_key, window_start, window_end, allocated_to, tracking_server, workspace, run_id
),
running as (
  select
    target_key, window_start, window_end, allocated_to, tracking_server, workspace, run_id, run_end_rule, weight_kind, is_ambiguous, nanoseconds,
    logical_or(needs_split) over (partition by target_key, window_start, window_end) as is_split,
    cast(sum(nanoseconds) over (w rows between unbounded preceding and current row) as int64) as upto,
    cast(sum(nanoseconds) over (partition by target_key, window_start, window_end) as int64) as total
  from summed
  where nanoseconds > 0
  window w as (
    partition by target_key, window_start, window_end
    order by case allocated_to when 'run' then 0 else 1 end, tracking_server, workspace, run_id)
)
select
  'pool_time' as match_method, concat(target_key, '|other charges') as target_key, window_start, window_end, allocated_to, tracking_server, workspace, run_id,
  cast(null as string) as owner_id, case when allocated_to = 'idle' then 'no_run' when is_ambiguous then 'ambiguous_name' end as reason,
  weight_kind, run_end_rule, false as is_scaled, cast(null as int64) as nanoseconds,
  (upto - nanoseconds) / total as ratio_from, upto / total as ratio_to, upto = total as is_last
from running
-- All other charges are split by `pool_targets`.
where is_split
