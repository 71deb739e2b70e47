-- one row per machine offered to the later rules, charge period of its lines (an hour if they fit in one) and time range.
-- During the time range, runs that state the machine use `taken` of its `units`.
with machines as (
  -- For several machines in one line, only the remaining time matters, which is in `offered_times`.
  select distinct i.machine_number, i.resource_key, i.units
  from run_intervals i
  join (select distinct resource_key from ledger_lines where is_offered) o on o.resource_key = i.resource_key
  where not i.is_several
),
changes as (
  select machine_number, charge_period_start, charge_period_end, used_from as mark, weight as change
  from slot_uses
  union all
  select machine_number, charge_period_start, charge_period_end, used_to, -weight
  from slot_uses
),
marks as (
  select c.machine_number, c.charge_period_start, c.charge_period_end, c.mark, m.resource_key, m.units, cast(sum(c.change) as int64) as change
  from changes c
  join machines m on m.machine_number = c.machine_number
  group by c.machine_number, c.charge_period_start, c.charge_period_end, c.mark, m.resource_key, m.units
),
slices as (
  select
    resource_key, machine_number, charge_period_start, charge_period_end, units,
    mark as taken_from, lead(mark) over w as taken_to, cast(sum(change) over w as int64) as weight
  from marks
  window w as (partition by machine_number, charge_period_start, charge_period_end order by mark)
),
used as (
  select
    c.resource_key, c.charge_period_start, c.charge_period_end, c.taken_from, c.taken_to, c.weight, coalesce(s.units, c.units) as units,
    c.charge_period_end <= timestamp_add(timestamp_trunc(c.charge_period_start, hour), interval 1 hour) as is_in_an_hour
  from slices c
  join machine_slots s
    on s.machine_number = c.machine_number and s.charge_period_start = c.charge_period_start and s.charge_period_end = c.charge_period_end
  where c.weight > 0 and c.taken_to > c.taken_from
)
select
  resource_key,
  case when is_in_an_hour then timestamp_trunc(charge_period_start, hour) else charge_period_start end as window_start,
  case when is_in_an_hour then timestamp_add(timestamp_trunc(charge_period_start, hour), interval 1 hour) else charge_period_end end as window_end,
  taken_from, taken_to,
  -- If the size of the machine is unknown, the runs that state it use all of it.
  case when units is null then 1 else least(weight, units) end as taken,
  coalesce(units, 1) as units
from used
