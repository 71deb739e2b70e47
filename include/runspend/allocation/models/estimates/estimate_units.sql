-- one row per machine: its size on its latest bill. It has no billed time range, so all runs influence how the runs are weighted.
select
  resource_key,
  @period as month,
  nullif(max(machine_gpus), 0) as machine_gpus,
  nullif(max(machine_cpus), 0) as machine_cpus,
  nullif(max(machine_memory_gb), 0) as machine_memory_gb,
  false as is_resized,
  -- As in machine_units: a run uses its nodes of such a resource. Of other resources with several machines on one line, such as a job, it uses all.
  max(machines) > 1 and is_machine_set(resource_key) as is_several,
  cast(null as timestamp) as billed_from,
  cast(null as timestamp) as billed_until
from estimate_seen
group by resource_key
