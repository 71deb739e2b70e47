-- one row per charge period of a machine and target (a run or idle time): the target's share of the charge period, as a range between 0 and 1
with machines as (
  select distinct machine_number, resource_key, other_kind, is_several from run_intervals
),
shares as (
  select
    u.machine_number, u.charge_period_start, u.charge_period_end, u.run_number,
    min(u.run_end_rule) as run_end_rule,
    case when max(b.other_clock - a.other_clock) = 0 then min(u.weight_kind) end as weight_kind,
    cast(sum(u.weight * (b.share_clock - a.share_clock) + u.other_weight * (b.other_clock - a.other_clock)) as int64) as ticks
  from slot_uses u
  join machine_clock a on a.machine_number = u.machine_number and a.mark = u.used_from
  join machine_clock b on b.machine_number = u.machine_number and b.mark = u.used_to
  group by u.machine_number, u.charge_period_start, u.charge_period_end, u.run_number
),
slots as (
  select
    s.machine_number, s.charge_period_start, s.charge_period_end, s.usage_source,
    -- For several machines, the clock counts the ticks of one of 10,000 units.
    case when m.is_several then div(s.billed_nanoseconds * 4, 625) else s.billed_nanoseconds * 64 end as billed_ticks,
    b.busy_clock - a.busy_clock as busy_ticks,
    b.over_clock > a.over_clock as is_over_asked
  from machine_slots s
  join machines m on m.machine_number = s.machine_number
  join machine_clock a on a.machine_number = s.machine_number and a.mark = s.charge_period_start
  join machine_clock b on b.machine_number = s.machine_number and b.mark = s.charge_period_end
),
running as (
  select
    t.machine_number, t.charge_period_start, t.charge_period_end, t.run_number, t.run_end_rule, t.weight_kind, t.ticks,
    s.usage_source, s.billed_ticks, s.busy_ticks, s.is_over_asked,
    greatest(s.billed_ticks, s.busy_ticks) as total_ticks,
    cast(sum(t.ticks) over (w rows between unbounded preceding and current row) as int64) as upto,
    lead(t.run_number) over w is null as is_last_run
  from shares t
  join slots s on s.machine_number = t.machine_number and s.charge_period_start = t.charge_period_start and s.charge_period_end = t.charge_period_end
  where s.busy_ticks > 0
  window w as (partition by t.machine_number, t.charge_period_start, t.charge_period_end order by t.run_number)
),
targets as (
  -- The last run gets the remainder of the integer division, so that the shares add up to exactly the busy time.
  select
    machine_number, charge_period_start, charge_period_end, usage_source, run_number, run_end_rule, weight_kind,
    upto - ticks as starts_at,
    case when is_last_run then busy_ticks else upto end as ends_at,
    total_ticks,
    is_over_asked or busy_ticks > billed_ticks as is_scaled
  from running
  union all
  select
    machine_number, charge_period_start, charge_period_end, usage_source, cast(null as int64), cast(null as string), weight_kind,
    busy_ticks, total_ticks, total_ticks, is_over_asked
  from running
  where is_last_run and total_ticks > busy_ticks
),
ambiguous as (
  select distinct machine_number, run_number from run_intervals where is_ambiguous
),
run_names as (
  select distinct run_number, tracking_server, workspace, run_id from run_intervals
)
select
  m.resource_key, t.charge_period_start, t.charge_period_end, t.usage_source,
  case when t.run_number is null then 'idle' else 'run' end as allocated_to,
  r.tracking_server, r.workspace, r.run_id, t.run_end_rule, coalesce(t.weight_kind, m.other_kind) as weight_kind, t.is_scaled, a.run_number is not null as is_ambiguous,
  cast(round(case when m.is_several then (t.ends_at - t.starts_at) * 156.25 else (t.ends_at - t.starts_at) / 64 end) as int64) as nanoseconds,
  t.starts_at / t.total_ticks as ratio_from,
  t.ends_at / t.total_ticks as ratio_to,
  t.ends_at = t.total_ticks as is_last
from targets t
join machines m on m.machine_number = t.machine_number
left join run_names r on r.run_number = t.run_number
left join ambiguous a on a.machine_number = t.machine_number and a.run_number = t.run_number
where t.ends_at > t.starts_at
