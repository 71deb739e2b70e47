-- one row per charge window of a machine and stretch of time a run had it within the window
with slot_days as (
  -- windows and runs meet by machine and day, so that machine alone never pairs every window with every run
  select s.resource_key, s.charge_period_start, s.charge_period_end, day
  from machine_slots s
  cross join unnest(generate_date_array(date(s.charge_period_start), date(timestamp_sub(s.charge_period_end, interval 1 microsecond)))) as day
),
interval_days as (
  select i.resource_key, i.tracking_server, i.workspace, i.run_id, i.run_end_rule, i.weight_kind, i.weight, i.units, i.interval_start, i.interval_end, day
  from run_intervals i
  cross join unnest(generate_date_array(date(i.interval_start), date(timestamp_sub(i.interval_end, interval 1 microsecond)))) as day
)
select
  s.resource_key, s.charge_period_start, s.charge_period_end, i.tracking_server, i.workspace, i.run_id, i.run_end_rule, i.weight_kind, i.weight, i.units,
  greatest(i.interval_start, s.charge_period_start) as used_from,
  least(i.interval_end, s.charge_period_end) as used_to
from slot_days s
join interval_days i on i.resource_key = s.resource_key and i.day = s.day
where i.interval_start < s.charge_period_end and i.interval_end > s.charge_period_start
  and s.day = date(greatest(i.interval_start, s.charge_period_start))
