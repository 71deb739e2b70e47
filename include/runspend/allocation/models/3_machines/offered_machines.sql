-- one row per pool or instance type, stated machine offered to it, and bill and cell of the machine's lines: the size of the machine
select
  match_method, target_key, resource_key, source, case when match_method = 'instance_type_time' then lower(instance_type) end as instance_type,
  cell_account, cell_region, cell_zone, cell_option,
  max(machine_gpus) as machine_gpus, max(machine_cpus) as machine_cpus, max(machine_memory_gb) as machine_memory_gb,
  -- As in pool_machines: how much its lines are like those of a machine. Null: the machine has no Usage lines.
  min(case
    when charge_category <> 'Usage' or charge_class is not null then null
    when cost_kind = 'compute' and (billed_nanoseconds > 0 or instance_type is not null) then 1
    when cost_kind = 'compute' then 2
    else 3
  end) as likeness
from offered_lines
group by
  match_method, target_key, resource_key, source, case when match_method = 'instance_type_time' then lower(instance_type) end,
  cell_account, cell_region, cell_zone, cell_option
