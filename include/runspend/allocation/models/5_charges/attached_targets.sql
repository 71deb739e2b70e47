-- one row per key, charge period of the lines attached by it and target: the split of its machines in that period, idle included.
-- Time that the runs which state a machine leave goes to the runs of a pool or an instance type that got this time of the machine.
with windows as (
  select distinct target_key, window_start, window_end from attached_lines
  union distinct
  select distinct target_key, window_start, window_end from later_lines
),
met as (
  select target_key, window_start, window_end, charge_period_start, charge_period_end from attached_windows
  union distinct
  select target_key, window_start, window_end, charge_period_start, charge_period_end from later_windows
),
followed as (
  -- One number per machine and charge period, whose parts of every rule are laid end to end.
  select
    resource_key, charge_period_start, charge_period_end, is_known, nanoseconds,
    case when allocated_to = 'rest' and is_known then 'idle' else allocated_to end as allocated_to,
    tracking_server, workspace, run_id, weight_kind, run_end_rule, is_scaled, case match_method when 'pool_time' then 2 else 3 end as doubt,
    cast(round(ratio_from * 2251799813685248.0) as int64) as starts_at, cast(round(ratio_to * 2251799813685248.0) as int64) as ends_at
  from followed_parts
),
asked as (
  select resource_key, charge_period_start, charge_period_end, case match_method when 'pool_time' then 2 else 3 end as doubt
  from followed_lines
  where is_known
),
parts as (
  -- doubt: 1 for confidence `high`, 2 for `medium`, 3 for `low`
  select
    target_key, charge_period_start, charge_period_end, allocated_to, tracking_server, workspace, run_id, run_end_rule, weight_kind, is_scaled, is_ambiguous,
    1 as doubt, nanoseconds
  from attached_parts
  where resource_key is null
  union all
  select
    target_key, charge_period_start, charge_period_end, allocated_to, tracking_server, workspace, run_id, run_end_rule, weight_kind, is_scaled, is_ambiguous,
    1, nanoseconds
  from job_attached_parts
  union all
  -- No run asked for the time, or no run reached the machine.
  select
    a.target_key, a.charge_period_start, a.charge_period_end, a.allocated_to, a.tracking_server, a.workspace, a.run_id, a.run_end_rule, a.weight_kind, a.is_scaled, a.is_ambiguous,
    coalesce(o.doubt, 1), a.nanoseconds
  from attached_parts a
  left join asked o on o.resource_key = a.resource_key and o.charge_period_start = a.charge_period_start and o.charge_period_end = a.charge_period_end
  left join (select distinct resource_key, charge_period_start, charge_period_end from followed where is_known) f
    on f.resource_key = a.resource_key and f.charge_period_start = a.charge_period_start and f.charge_period_end = a.charge_period_end
  where a.resource_key is not null and f.resource_key is null
  union all
  select
    a.target_key, a.charge_period_start, a.charge_period_end, f.allocated_to, f.tracking_server, f.workspace, f.run_id, f.run_end_rule, f.weight_kind,
    a.is_scaled or f.is_scaled, false, f.doubt,
    cast(round(a.nanoseconds * (f.ends_at / 2251799813685248.0)) as int64) - cast(round(a.nanoseconds * (f.starts_at / 2251799813685248.0)) as int64)
  from attached_parts a
  join followed f on f.resource_key = a.resource_key and f.charge_period_start = a.charge_period_start and f.charge_period_end = a.charge_period_end
  where f.is_known
  union all
  select
    k.target_key, f.charge_period_start, f.charge_period_end, f.allocated_to, f.tracking_server, f.workspace, f.run_id, f.run_end_rule, f.weight_kind,
    f.is_scaled, false, f.doubt,
    cast(round(f.nanoseconds * (f.ends_at / 2251799813685248.0)) as int64) - cast(round(f.nanoseconds * (f.starts_at / 2251799813685248.0)) as int64)
  from followed f
  join attach_keys k on k.resource_key = f.resource_key
  where not f.is_known
),
all_parts as (
  select
    w.target_key, w.window_start, w.window_end, p.allocated_to, p.tracking_server, p.workspace, p.run_id, p.run_end_rule, p.weight_kind, p.is_scaled, p.is_ambiguous,
    p.doubt, p.nanoseconds
  from windows w
  join met m on m.target_key = w.target_key and m.window_start = w.window_start and m.window_end = w.window_end
  join parts p on p.target_key = m.target_key and p.charge_period_start = m.charge_period_start and p.charge_period_end = m.charge_period_end
  where p.nanoseconds > 0
  union all
  select
    w.target_key, w.window_start, w.window_end, 'run', p.tracking_server, p.workspace, p.run_id, p.run_end_rule, p.weight_kind, false, p.is_ambiguous,
    1, p.nanoseconds
  from tail_windows w
  join job_tails p on p.target_key = w.target_key
  where p.billed_from < timestamp_add(w.window_end, interval 24 hour) and p.billed_until > timestamp_sub(w.window_start, interval 24 hour)
),
targets as (
  select
    target_key, window_start, window_end, allocated_to, tracking_server, workspace, run_id,
    min(run_end_rule) as run_end_rule, min(weight_kind) as weight_kind, logical_or(is_scaled) as is_scaled, logical_or(is_ambiguous) as is_ambiguous,
    max(doubt) as doubt, cast(sum(nanoseconds) as int64) as nanoseconds
  from all_parts
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
