-- one row per job and month in which lives of the job ended. The columns are those of a machine (machine_units).
-- A job has no units: its rented machines belong only to its runs, so they cannot be idle.
select
  job_key as resource_key, month, cast(null as int64) as machine_gpus, cast(null as int64) as machine_cpus, cast(null as float64) as machine_memory_gb,
  false as is_several,
  min(charge_period_start) as billed_from, max(charge_period_end) as billed_until
from job_windows
group by job_key, month
