-- one row per machine and month of its charges (or the period, if that month is later): its maximum size, whether the size changed, and the
-- time range of these charges.
-- is_several: a resource of several machines, such as an Azure ML compute cluster or a scale set. Its lines bill more time than the charge period.
with sizes as (
  select
    resource_key, charge_month(charge_date) as month,
    min(nullif(machine_gpus, 0)) as least_gpus, nullif(max(machine_gpus), 0) as machine_gpus,
    min(nullif(machine_cpus, 0)) as least_cpus, nullif(max(machine_cpus), 0) as machine_cpus,
    min(nullif(machine_memory_gb, 0)) as least_memory_gb, nullif(max(machine_memory_gb), 0) as machine_memory_gb,
    min(case when at_most_a_day(charge_period_start, charge_period_end) then charge_period_start end) as billed_from,
    max(case when at_most_a_day(charge_period_start, charge_period_end) then charge_period_end end) as billed_until
  from billing_lines
  where billing_period = @period and resource_key is not null
  group by resource_key, charge_month(charge_date)
  union all
  -- The bill of an earlier month has properties that late charges lack.
  select
    resource_key, month, machine_gpus, machine_gpus, machine_cpus, machine_cpus, machine_memory_gb, machine_memory_gb,
    cast(null as timestamp), cast(null as timestamp)
  from earlier_properties
  union all
  select
    resource_key, month, machine_gpus, machine_gpus, machine_cpus, machine_cpus, machine_memory_gb, machine_memory_gb,
    charge_period_start, charge_period_end
  from earlier_machines
),
machine_times as (
  select
    resource_key, charge_month(charge_date) as month, sum(billed_nanoseconds) as billed_nanoseconds,
    timestamp_diff(charge_period_end, charge_period_start, microsecond) * 1000.0 as window_nanoseconds
  from billing_lines
  where billing_period = @period and charge_category = 'Usage' and charge_class is null and charge_period_end > charge_period_start
    and (strpos(resource_key, '/computes/') > 0 or strpos(resource_key, '/virtualmachinescalesets/') > 0)
  group by resource_key, charge_month(charge_date), charge_period_start, charge_period_end, source, coalesce(sku_id, '')
  union all
  select resource_key, month, billed_nanoseconds, timestamp_diff(charge_period_end, charge_period_start, microsecond) * 1000.0 from earlier_machines
),
several as (
  select resource_key, month
  from machine_times
  where billed_nanoseconds / window_nanoseconds > 1.01 and is_machine_set(resource_key)
  union distinct
  select resource_key, month from earlier_properties where is_several
)
select
  s.resource_key, s.month, max(s.machine_gpus) as machine_gpus, max(s.machine_cpus) as machine_cpus, max(s.machine_memory_gb) as machine_memory_gb,
  coalesce(
    min(s.least_gpus) <> max(s.machine_gpus) or min(s.least_cpus) <> max(s.machine_cpus) or min(s.least_memory_gb) <> max(s.machine_memory_gb),
    false) as is_resized,
  logical_or(v.resource_key is not null) as is_several,
  min(s.billed_from) as billed_from, max(s.billed_until) as billed_until
from sizes s
left join several v on v.resource_key = s.resource_key and v.month = s.month
group by s.resource_key, s.month
