-- one row per machine: its maximum size, whether the size changed, and the time range that the period bills.
-- is_several: an Azure ML compute cluster or a scale set, whose lines bill more time than the charge period, that of several machines.
-- Corrections do not count towards the time range.
with sizes as (
  select
    resource_key,
    nullif(max(machine_gpus), 0) as machine_gpus,
    nullif(max(machine_cpus), 0) as machine_cpus,
    nullif(max(machine_memory_gb), 0) as machine_memory_gb,
    coalesce(
      min(nullif(machine_gpus, 0)) <> max(machine_gpus) or min(nullif(machine_cpus, 0)) <> max(machine_cpus) or min(nullif(machine_memory_gb, 0)) <> max(machine_memory_gb),
      false) as is_resized,
    min(case when charge_class is null and at_most_a_day(charge_period_start, charge_period_end) then charge_period_start end) as billed_from,
    max(case when charge_class is null and at_most_a_day(charge_period_start, charge_period_end) then charge_period_end end) as billed_until
  from billing_lines
  where billing_period = @period and resource_key is not null
  group by resource_key
),
several as (
  select distinct resource_key
  from (
    select resource_key
    from billing_lines
    where billing_period = @period and charge_category = 'Usage' and charge_class is null and charge_period_end > charge_period_start
      and (strpos(resource_key, '/computes/') > 0 or strpos(resource_key, '/virtualmachinescalesets/') > 0)
      and is_machine_set(resource_key)
    group by resource_key, charge_period_start, charge_period_end, source, coalesce(sku_id, '')
    having sum(billed_nanoseconds) / (timestamp_diff(charge_period_end, charge_period_start, microsecond) * 1000.0) > 1.01
  )
)
select
  s.resource_key, s.machine_gpus, s.machine_cpus, s.machine_memory_gb,
  -- The current size says nothing about the time that a late correction covers.
  s.is_resized or e.named is not null as is_resized,
  v.resource_key is not null as is_several,
  s.billed_from, s.billed_until
from sizes s
left join (
  select resource_key as named from earlier_sizes
  union distinct
  select resource_key from earlier_machines
) e on e.named = s.resource_key
left join several v on v.resource_key = s.resource_key
union all
select
  e.resource_key, max(e.machine_gpus), max(e.machine_cpus), max(e.machine_memory_gb),
  coalesce(
    min(e.machine_gpus) <> max(e.machine_gpus) or min(e.machine_cpus) <> max(e.machine_cpus) or min(e.machine_memory_gb) <> max(e.machine_memory_gb),
    false),
  logical_or(regexp_contains(e.resource_key, r'/(computes|virtualmachinescalesets)/[^/]+$')
    and e.billed_nanoseconds / (timestamp_diff(e.charge_period_end, e.charge_period_start, microsecond) * 1000.0) > 1.01),
  cast(null as timestamp), cast(null as timestamp)
from earlier_machines e
left join sizes s on s.resource_key = e.resource_key
where s.resource_key is null
group by e.resource_key
