-- one row per charge window of a machine and target (a run, or idle): its part of the window, as two ends of a line from 0 to 1
with shares as (
  select
    u.resource_key, u.charge_period_start, u.charge_period_end, u.tracking_server, u.workspace, u.run_id,
    min(u.run_end_rule) as run_end_rule, min(u.weight_kind) as weight_kind,
    cast(sum(u.weight * (b.share_clock - a.share_clock)) as int64) as nanoseconds
  from slot_uses u
  join machine_clock a on a.resource_key = u.resource_key and a.mark = u.used_from
  join machine_clock b on b.resource_key = u.resource_key and b.mark = u.used_to
  group by u.resource_key, u.charge_period_start, u.charge_period_end, u.tracking_server, u.workspace, u.run_id
),
slots as (
  select
    s.resource_key, s.charge_period_start, s.charge_period_end, s.billed_nanoseconds,
    b.busy_clock - a.busy_clock as busy_nanoseconds, b.over_clock > a.over_clock as is_over_asked
  from machine_slots s
  join machine_clock a on a.resource_key = s.resource_key and a.mark = s.charge_period_start
  join machine_clock b on b.resource_key = s.resource_key and b.mark = s.charge_period_end
),
running as (
  select
    t.resource_key, t.charge_period_start, t.charge_period_end, t.tracking_server, t.workspace, t.run_id, t.run_end_rule, t.weight_kind, t.nanoseconds,
    s.billed_nanoseconds, s.busy_nanoseconds, s.is_over_asked,
    greatest(s.billed_nanoseconds, s.busy_nanoseconds) as total_nanoseconds,
    cast(sum(t.nanoseconds) over (w rows between unbounded preceding and current row) as int64) as upto,
    row_number() over w = count(*) over (partition by t.resource_key, t.charge_period_start, t.charge_period_end) as is_last_run
  from shares t
  join slots s on s.resource_key = t.resource_key and s.charge_period_start = t.charge_period_start and s.charge_period_end = t.charge_period_end
  where s.busy_nanoseconds > 0
  window w as (partition by t.resource_key, t.charge_period_start, t.charge_period_end order by t.tracking_server, t.run_id, t.workspace)
),
targets as (
  -- what integer division left over goes to the last run, so that busy time is exactly used up
  select
    resource_key, charge_period_start, charge_period_end, 'run' as allocated_to, tracking_server, workspace, run_id, run_end_rule, weight_kind,
    upto - nanoseconds as starts_at,
    case when is_last_run then busy_nanoseconds else upto end as ends_at,
    total_nanoseconds,
    is_over_asked or busy_nanoseconds > billed_nanoseconds as is_scaled
  from running
  union all
  select
    resource_key, charge_period_start, charge_period_end, 'idle', cast(null as string), cast(null as string), cast(null as string), cast(null as string), weight_kind,
    busy_nanoseconds, total_nanoseconds, total_nanoseconds, is_over_asked
  from running
  where is_last_run and total_nanoseconds > busy_nanoseconds
)
select
  resource_key, charge_period_start, charge_period_end, allocated_to, tracking_server, workspace, run_id, run_end_rule, weight_kind, is_scaled,
  ends_at - starts_at as nanoseconds,
  starts_at / total_nanoseconds as ratio_before,
  ends_at / total_nanoseconds as ratio_upto,
  ends_at = total_nanoseconds as is_last
from targets
where ends_at > starts_at
