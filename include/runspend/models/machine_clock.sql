-- one row per machine and mark: three clocks that advance only while the machine is busy
with changes as (
  select resource_key, interval_start as mark, weight as change from run_intervals
  union all
  select resource_key, interval_end, -weight from run_intervals
  union all
  select resource_key, charge_period_start, 0 from machine_slots
  union all
  select resource_key, charge_period_end, 0 from machine_slots
),
marks as (
  select resource_key, mark, sum(change) as change
  from changes
  group by resource_key, mark
),
machines as (
  select resource_key, max(units) as units
  from run_intervals
  group by resource_key
),
slices as (
  select
    m.resource_key, m.mark, u.units,
    cast(sum(m.change) over w as int64) as active,
    timestamp_diff(lead(m.mark) over w, m.mark, microsecond) * 1000 as nanoseconds
  from marks m
  join machines u on u.resource_key = m.resource_key
  window w as (partition by m.resource_key order by m.mark)
),
advances as (
  select
    resource_key, mark,
    -- per unit of weight
    case when active > 0 then div(nanoseconds, greatest(active, coalesce(units, active))) else 0 end as share_advance,
    -- what the active runs have of the machine together; two steps, since nanoseconds x weight can pass 2^63
    case
      when active <= 0 then 0
      when units is null or active >= units then nanoseconds
      else div(nanoseconds, units) * active + div(mod(nanoseconds, units) * active, units)
    end as busy_advance,
    case when units is not null and active > units then nanoseconds else 0 end as over_advance
  from slices
)
select
  resource_key, mark,
  cast(coalesce(sum(share_advance) over w, 0) as int64) as share_clock,
  cast(coalesce(sum(busy_advance) over w, 0) as int64) as busy_clock,
  cast(coalesce(sum(over_advance) over w, 0) as int64) as over_clock
from advances
window w as (partition by resource_key order by mark rows between unbounded preceding and 1 preceding)
