-- one row per charge period of a job with runs. The columns are those of a machine's charge period (machine_slots).
select m.machine_number, w.charge_period_start, w.charge_period_end, w.usage_source, w.billed_nanoseconds, cast(null as int64) as units
from job_windows w
join (select distinct machine_number, resource_key, month from run_intervals) m on m.resource_key = w.job_key and m.month = w.month
