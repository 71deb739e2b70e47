-- one row per job, charge period and run that ran in it: the run's own time, computed in the same way as on a machine
with uses as (
  select
    u.machine_number, u.charge_period_start, u.charge_period_end, u.run_number,
    cast(sum(u.weight * (b.share_clock - a.share_clock) + u.other_weight * (b.other_clock - a.other_clock)) as int64) as ticks
  from slot_uses u
  join machine_clock a on a.machine_number = u.machine_number and a.mark = u.used_from
  join machine_clock b on b.machine_number = u.machine_number and b.mark = u.used_to
  group by u.machine_number, u.charge_period_start, u.charge_period_end, u.run_number
)
select j.resource_key as job_key, u.charge_period_start, u.charge_period_end, u.run_number, u.ticks
from uses u
join (select distinct machine_number, resource_key from run_intervals) j on j.machine_number = u.machine_number
