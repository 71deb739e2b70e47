-- one row per job, in the place of a machine: what it rents is its runs' alone, so there are no units to leave idle
select
  job_key as resource_key, cast(null as int64) as machine_gpus, cast(null as int64) as machine_cpus, cast(null as float64) as machine_memory_gb,
  min(charge_period_start) as billed_from, max(charge_period_end) as billed_until
from job_windows
group by job_key
