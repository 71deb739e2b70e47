-- one row per key, charge period of the lines attached by it and target: the split of its machines in that period, including idle time.
-- Time that the runs which state a machine leave goes to those runs of a pool or an instance type that got this time.
with windows as (
  select distinct target_key, window_start, window_end, false as is_shared from attached_lines
  union distinct
  select distinct target_key, window_start, window_end, is_shared from later_lines
),
met as (
  -- `distinct` is redundant. Without it, an engine may join windows to parts by their key only.
  select distinct w.target_key, w.window_start, w.window_end, m.charge_period_start, m.charge_period_end
  from windows w
  join (
    select target_key, window_start, window_end, charge_period_start, charge_period_end from attached_windows
    union distinct
    select target_key, window_start, window_end, charge_period_start, charge_period_end from later_windows
  ) m on m.target_key = w.target_key and m.window_start = w.window_start and m.window_end = w.window_end
  where not w.is_shared
),
asked as (
  select resource_key, charge_period_start, charge_period_end, max(match_method) as match_method
  from followed_lines
  group by resource_key, charge_period_start, charge_period_end
),
stated as (
  -- doubt: 1 for confidence `high`, 2 for `medium`, 3 for `low`
  select
    target_key, charge_period_start, charge_period_end, allocated_to, tracking_server, workspace, run_id, run_end_rule, weight_kind, is_scaled, is_ambiguous,
    1 as doubt, nanoseconds
  from attached_parts
  where resource_key is null
  union all
  select
    j.target_key, j.charge_period_start, j.charge_period_end, j.allocated_to, j.tracking_server, j.workspace, j.run_id, j.run_end_rule, j.weight_kind, j.is_scaled, j.is_ambiguous,
    1, j.nanoseconds
  from job_attached_parts j
  -- The job may have had a different machine at that time.
  left join (select distinct resource_key, charge_period_start, charge_period_end from followed_machines where is_reached) f
    on concat('machine|', f.resource_key) = j.target_key and f.charge_period_start = j.charge_period_start and f.charge_period_end = j.charge_period_end
  where f.resource_key is null
  union all
  -- The time that the runs which state a machine leave: runs of a pool or an instance type got it, or it is idle.
  select
    a.target_key, a.charge_period_start, a.charge_period_end, 'run', f.tracking_server, f.workspace, f.run_id, f.run_end_rule, f.weight_kind,
    a.is_scaled or f.is_scaled, false, case f.match_method when 'pool_time' then 2 else 3 end,
    cast(round(a.nanoseconds * (f.part / 2251799813685248.0)) as int64)
  from attached_parts a
  join followed_parts f on f.resource_key = a.resource_key and f.charge_period_start = a.charge_period_start and f.charge_period_end = a.charge_period_end
  union all
  select
    a.target_key, a.charge_period_start, a.charge_period_end, a.allocated_to, a.tracking_server, a.workspace, a.run_id, a.run_end_rule, a.weight_kind, a.is_scaled, a.is_ambiguous,
    case o.match_method when 'pool_time' then 2 when 'instance_type_time' then 3 else 1 end,
    case when f.part is null then a.nanoseconds else cast(round(a.nanoseconds * (1.0 - f.part / 2251799813685248.0)) as int64) end
  from attached_parts a
  left join asked o on o.resource_key = a.resource_key and o.charge_period_start = a.charge_period_start and o.charge_period_end = a.charge_period_end
  left join (
    select resource_key, charge_period_start, charge_period_end, cast(sum(part) as int64) as part
    from followed_parts
    group by resource_key, charge_period_start, charge_period_end
  ) f on f.resource_key = a.resource_key and f.charge_period_start = a.charge_period_start and f.charge_period_end = a.charge_period_end
  where a.resource_key is not null
),
followed_times as (
  -- The time of machines that no run states, allocated by pool or instance type.
  select
    k.target_key, f.charge_period_start, f.charge_period_end, f.match_method, f.target_key as followed_key, f.window_start as followed_start, f.window_end as followed_end,
    f.is_reached, cast(sum(f.nanoseconds) as int64) as nanoseconds
  from followed_machines f
  join attach_keys k on k.resource_key = f.resource_key
  where f.is_reached or starts_with(k.target_key, 'machine|')
  group by k.target_key, f.charge_period_start, f.charge_period_end, f.match_method, f.target_key, f.window_start, f.window_end, f.is_reached
),
followed as (
  select
    m.target_key, m.window_start, m.window_end, f.match_method, f.followed_key, f.followed_start, f.followed_end, f.is_reached,
    cast(sum(f.nanoseconds) as int64) as nanoseconds
  from met m
  join followed_times f on f.target_key = m.target_key and f.charge_period_start = m.charge_period_start and f.charge_period_end = m.charge_period_end
  group by m.target_key, m.window_start, m.window_end, f.match_method, f.followed_key, f.followed_start, f.followed_end, f.is_reached
),
all_parts as (
  select
    m.target_key, m.window_start, m.window_end, p.allocated_to, p.tracking_server, p.workspace, p.run_id, p.run_end_rule, p.weight_kind, p.is_scaled, p.is_ambiguous,
    p.doubt, p.nanoseconds
  from met m
  join stated p on p.target_key = m.target_key and p.charge_period_start = m.charge_period_start and p.charge_period_end = m.charge_period_end
  union all
  select
    f.target_key, f.window_start, f.window_end, s.allocated_to, s.tracking_server, s.workspace, s.run_id, s.run_end_rule, s.weight_kind, s.is_scaled, false,
    case f.match_method when 'pool_time' then 2 else 3 end, cast(round(f.nanoseconds * (s.part / 2251799813685248.0)) as int64)
  from followed f
  join followed_shares s
    on s.match_method = f.match_method and s.target_key = f.followed_key and s.window_start = f.followed_start and s.window_end = f.followed_end
  union all
  -- Time of the machine in which no run is active.
  select
    target_key, window_start, window_end, 'rest', cast(null as string), cast(null as string), cast(null as string), cast(null as string), cast(null as string), false, false,
    3, nanoseconds
  from followed
  where not is_reached
  union all
  select
    w.target_key, w.window_start, w.window_end, s.allocated_to, s.tracking_server, s.workspace, s.run_id, s.run_end_rule, s.weight_kind, s.is_scaled, false,
    case s.match_method when 'pool_time' then 2 else 3 end, s.part
  from windows w
  join followed_shares s
    on concat(s.match_method, '|', s.target_key) = w.target_key and s.window_start = w.window_start and s.window_end = w.window_end
  where w.is_shared
  union all
  select
    w.target_key, w.window_start, w.window_end, 'run', p.tracking_server, p.workspace, p.run_id, p.run_end_rule, p.weight_kind, false, p.is_ambiguous,
    1, p.nanoseconds
  from tail_windows w
  join job_tails p on p.target_key = w.target_key
  -- If a pool or an instance type has the machine at that time, the machine serves its runs, not the job.
  left join (select distinct target_key, window_start, window_end from later_windows where is_reached) o
    on o.target_key = w.target_key and o.window_start = w.window_start and o.window_end = w.window_end
  where o.target_key is null
    and p.billed_from < timestamp_add(w.window_end, interval 24 hour) and p.billed_until > timestamp_sub(w.window_start, interval 24 hour)
),
targets as (
  select
    target_key, window_start, window_end, allocated_to, tracking_server, workspace, run_id,
    min(run_end_rule) as run_end_rule, min(weight_kind) as weight_kind, logical_or(is_scaled) as is_scaled, logical_or(is_ambiguous) as is_ambiguous,
    max(doubt) as doubt, cast(sum(nanoseconds) as int64) as nanoseconds
  from all_parts
  where nanoseconds > 0
  group by target_key, window_start, window_end, allocated_to, tracking_server, workspace, run_id
),
running as (
  select
    target_key, window_start, window_end, allocated_to, tracking_server, workspace, run_id, run_end_rule, weight_kind, is_scaled, is_ambiguous, doubt, nanoseconds,
    cast(sum(nanoseconds) over (w rows between unbounded preceding and current row) as int64) as upto,
    cast(sum(nanoseconds) over (partition by target_key, window_start, window_end) as int64) as total
  from targets
  window w as (
    partition by target_key, window_start, window_end
    order by case allocated_to when 'run' then 0 when 'idle' then 1 else 2 end, tracking_server, workspace, run_id)
)
select
  target_key, window_start, window_end, allocated_to, tracking_server, workspace, run_id,
  case when allocated_to <> 'run' then 'no_run' when is_ambiguous then 'ambiguous_name' end as reason,
  case doubt when 1 then 'high' when 2 then 'medium' else 'low' end as confidence,
  weight_kind, run_end_rule, is_scaled,
  (upto - nanoseconds) / total as ratio_from, upto / total as ratio_to, upto = total as is_last
from running
