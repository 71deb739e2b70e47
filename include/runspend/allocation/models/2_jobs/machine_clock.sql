-- one row per machine and mark. Marks are the starts and ends of runs, and of charge periods in which a run is active.
-- The row has clocks that advance only while the machine is busy, in ticks of 1/64 nanosecond.
with changes as (
  select
    machine_number, interval_start as mark, weight as change, other_weight as other_change, case when is_unknown then 1 else 0 end as unknown, cast(null as int64) as units
  from run_intervals
  union all
  select machine_number, interval_end, -weight, -other_weight, case when is_unknown then -1 else 0 end, cast(null as int64) from run_intervals
  union all
  select machine_number, charge_period_start, 0, 0, 0, cast(null as int64) from slot_uses
  union all
  select machine_number, charge_period_end, 0, 0, 0, cast(null as int64) from slot_uses
  union all
  select machine_number, charge_period_start, 0, 0, 0, units from machine_slots where units is not null
),
marks as (
  select
    machine_number, mark, cast(sum(change) as int64) as change, cast(sum(other_change) as int64) as other_change, cast(sum(unknown) as int64) as unknown, max(units) as units
  from changes
  group by machine_number, mark
),
sizes as (
  -- Only for the few machines whose size changed: the units from this mark on.
  select
    m.machine_number, m.mark,
    last_value(m.units ignore nulls) over (
      partition by m.machine_number order by m.mark rows between unbounded preceding and current row) as units
  from marks m
  join (select distinct machine_number from machine_slots where units is not null) r on r.machine_number = m.machine_number
),
machines as (
  select machine_number, max(units) as units
  from run_intervals
  group by machine_number
),
slices as (
  select
    m.machine_number, m.mark, coalesce(s.units, u.units) as units,
    cast(sum(m.change) over w as int64) as active, cast(sum(m.other_change) over w as int64) as other_active, cast(sum(m.unknown) over w as int64) as unknown,
    timestamp_diff(lead(m.mark) over w, m.mark, microsecond) * 64000 as ticks
  from marks m
  join machines u on u.machine_number = m.machine_number
  left join sizes s on s.machine_number = m.machine_number and s.mark = m.mark
  window w as (partition by m.machine_number order by m.mark)
),
advances as (
  select
    machine_number, mark,
    -- Advance of the clock per unit of weight.
    case when active > 0 and unknown = 0 then div(ticks, greatest(active, coalesce(units, active))) else 0 end as share_advance,
    -- The same per unit of the other weight, used while any active run does not state the first weight.
    case when unknown > 0 then div(ticks, other_active) else 0 end as other_advance,
    -- The part of the machine that all active runs use together. Computed in two steps, because ticks x weight can exceed 2^63.
    case
      when active <= 0 then 0
      when unknown > 0 or units is null or active >= units then ticks
      else div(ticks, units) * active + div(mod(ticks, units) * active, units)
    end as busy_advance,
    case when unknown = 0 and units is not null and active > units then ticks else 0 end as over_advance
  from slices
)
select
  machine_number, mark,
  cast(coalesce(sum(share_advance) over w, 0) as int64) as share_clock,
  cast(coalesce(sum(other_advance) over w, 0) as int64) as other_clock,
  cast(coalesce(sum(busy_advance) over w, 0) as int64) as busy_clock,
  cast(coalesce(sum(over_advance) over w, 0) as int64) as over_clock
from advances
window w as (partition by machine_number order by mark rows between unbounded preceding and 1 preceding)
