-- one row per charge period of a machine and time range in which a run used the machine within that period
with windows as (
  select
    machine_number, charge_period_start, charge_period_end,
    date(charge_period_start) as first_day, date(timestamp_sub(charge_period_end, interval 1 microsecond)) as last_day
  from machine_slots
),
intervals as (
  select
    machine_number, run_number, run_end_rule, weight_kind, weight, other_weight, interval_start, interval_end,
    date(interval_start) as first_day, date(timestamp_sub(interval_end, interval 1 microsecond)) as last_day
  from run_intervals
),
slot_days as (
  -- Charge periods and runs are joined by machine and day. By machine only, every charge period would be compared with every run.
  select machine_number, charge_period_start, charge_period_end, first_day as day
  from windows
  where first_day = last_day
  union all
  select w.machine_number, w.charge_period_start, w.charge_period_end, day
  from windows w
  cross join unnest(generate_date_array(w.first_day, w.last_day)) as day
  where w.first_day < w.last_day
),
interval_days as (
  select machine_number, run_number, run_end_rule, weight_kind, weight, other_weight, interval_start, interval_end, first_day as day
  from intervals
  where first_day = last_day
  union all
  select i.machine_number, i.run_number, i.run_end_rule, i.weight_kind, i.weight, i.other_weight, i.interval_start, i.interval_end, day
  from intervals i
  cross join unnest(generate_date_array(i.first_day, i.last_day)) as day
  where i.first_day < i.last_day
)
select
  s.machine_number, s.charge_period_start, s.charge_period_end, i.run_number, i.run_end_rule, i.weight_kind, i.weight, i.other_weight,
  greatest(i.interval_start, s.charge_period_start) as used_from,
  least(i.interval_end, s.charge_period_end) as used_to
from slot_days s
join interval_days i on i.machine_number = s.machine_number and i.day = s.day
where i.interval_start < s.charge_period_end and i.interval_end > s.charge_period_start
  and s.day = date(greatest(i.interval_start, s.charge_period_start))
