-- one row per charge period of a machine with runs, as in machine_slots. Also one row per charge period that only the bill of an earlier month
-- has, if this bill has late lines of the machine's attached resources for it
select machine_number, charge_period_start, charge_period_end, usage_source, billed_nanoseconds, units
from charged_slots
union all
select
  m.machine_number, e.charge_period_start, e.charge_period_end, cast(null as string),
  case when m.is_several then e.billed_nanoseconds else least(e.billed_nanoseconds, timestamp_diff(e.charge_period_end, e.charge_period_start, microsecond) * 1000) end,
  case when u.is_resized and not m.is_several then
    case m.weight_kind
      when 'gpu' then e.machine_gpus * m.unit_scale
      when 'cpu' then e.machine_cpus * m.unit_scale
      when 'memory' then cast(ceil(e.machine_memory_gb) as int64)
    end
  end
from earlier_machines e
join (select distinct resource_key, month, machine_number, is_several, weight_kind, unit_scale from run_intervals) m
  on m.resource_key = e.resource_key and m.month = e.month
left join machine_units u on u.resource_key = e.resource_key and u.month = e.month
left join allocated_jobs j
  on j.job_key = e.job_key and j.charge_period_start = e.charge_period_start and j.charge_period_end = e.charge_period_end
where j.job_key is null
