-- one row per machine: what it has, as the lines of the period tell
select
  resource_key,
  nullif(max(machine_gpus), 0) as machine_gpus,
  nullif(max(machine_cpus), 0) as machine_cpus,
  nullif(max(machine_memory_gb), 0) as machine_memory_gb
from billing_lines
where billing_period = @period and resource_key is not null
group by resource_key
