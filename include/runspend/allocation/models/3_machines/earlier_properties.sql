-- one row per machine and charge period of an earlier month for which this bill lacks the machine's size, type, region, purchase option or pool:
-- what the bill of that month states for the charge period, or else for the month. Of a size, the largest counts; of the others, only a single one.
-- pool_key: only if all usage names that pool.
-- is_several: that bill has more time in a charge period than one machine can have.
with late as (
  select resource_key, cast(date_trunc(charge_date, month) as date) as month, charge_period_start, charge_period_end
  from billing_lines
  where billing_period = @period and charge_date < @period and resource_key is not null
    and (
      (machine_gpus is null and machine_cpus is null and machine_memory_gb is null) or instance_type is null or region_id is null
      or pricing_category is null or pool_key is null or is_machine_set(resource_key))
  group by resource_key, cast(date_trunc(charge_date, month) as date), charge_period_start, charge_period_end
),
hours as (
  select resource_key, month, charge_period_start, charge_period_end, hour_number
  from late
  cross join unnest(hours_between(charge_period_start, charge_period_end)) as hour_number
  where charge_period_end > charge_period_start and at_most_a_day(charge_period_start, charge_period_end)
),
charges as (
  select
    b.resource_key, b.billing_period, b.charge_period_start, b.charge_period_end, b.source, b.sku_id,
    case when b.charge_category = 'Usage' and b.charge_class is null then b.billed_nanoseconds end as billed_nanoseconds,
    case when b.charge_category = 'Usage' and b.charge_class is null then coalesce(b.pool_key, '') end as pool_key,
    b.machine_gpus, b.machine_cpus, b.machine_memory_gb, lower(b.instance_type) as instance_type, lower(b.region_id) as region_id,
    lower(b.availability_zone) as availability_zone, purchase_option(b.pricing_category) as purchase_option
  from billing_lines b
  join (select distinct resource_key, month from late) m on m.resource_key = b.resource_key and m.month = b.billing_period
  where b.billing_period >= cast(date_trunc(date(@window_start), month) as date) and b.billing_period < @period
),
described as (
  select
    h.resource_key, h.month, h.charge_period_start, h.charge_period_end,
    c.machine_gpus, c.machine_cpus, c.machine_memory_gb, c.instance_type, c.region_id, c.availability_zone, c.purchase_option, c.pool_key
  from hours h
  join charges c on c.resource_key = h.resource_key and c.billing_period = h.month and hour_of(c.charge_period_start) = h.hour_number
  where c.charge_period_start >= h.charge_period_start and c.charge_period_end <= h.charge_period_end
  union all
  select
    resource_key, billing_period, cast(null as timestamp), cast(null as timestamp),
    machine_gpus, machine_cpus, machine_memory_gb, instance_type, region_id, availability_zone, purchase_option, pool_key
  from charges
),
properties as (
  select
    resource_key, month, charge_period_start, charge_period_end,
    nullif(max(machine_gpus), 0) as machine_gpus, nullif(max(machine_cpus), 0) as machine_cpus, nullif(max(machine_memory_gb), 0) as machine_memory_gb,
    case when min(instance_type) = max(instance_type) then min(instance_type) end as instance_type,
    case when min(region_id) = max(region_id) then min(region_id) end as region_id,
    case when min(availability_zone) = max(availability_zone) then min(availability_zone) end as availability_zone,
    case when min(purchase_option) = max(purchase_option) then min(purchase_option) end as purchase_option,
    case when min(pool_key) = max(pool_key) then nullif(min(pool_key), '') end as pool_key, max(pool_key) is not null as has_usage,
    max(coalesce(machine_gpus, machine_cpus, machine_memory_gb)) is not null or max(instance_type) is not null as is_sized
  from described
  group by resource_key, month, charge_period_start, charge_period_end
),
sku_times as (
  select
    resource_key, billing_period, sum(billed_nanoseconds) as billed_nanoseconds,
    timestamp_diff(charge_period_end, charge_period_start, microsecond) * 1000 as window_nanoseconds
  from charges
  where is_machine_set(resource_key) and charge_period_end > charge_period_start
  group by resource_key, billing_period, charge_period_start, charge_period_end, source, sku_id
),
several as (
  select distinct resource_key, billing_period as month
  from sku_times
  where billed_nanoseconds > 1.01 * window_nanoseconds
)
select
  l.resource_key, l.month, l.charge_period_start, l.charge_period_end,
  case when coalesce(p.is_sized, false) then p.machine_gpus else m.machine_gpus end as machine_gpus,
  case when coalesce(p.is_sized, false) then p.machine_cpus else m.machine_cpus end as machine_cpus,
  case when coalesce(p.is_sized, false) then p.machine_memory_gb else m.machine_memory_gb end as machine_memory_gb,
  case when coalesce(p.is_sized, false) then p.instance_type else m.instance_type end as instance_type,
  coalesce(p.region_id, m.region_id) as region_id, coalesce(p.availability_zone, m.availability_zone) as availability_zone,
  coalesce(p.purchase_option, m.purchase_option) as purchase_option,
  case when coalesce(p.has_usage, false) then p.pool_key else m.pool_key end as pool_key, s.resource_key is not null as is_several
from late l
join properties m on m.resource_key = l.resource_key and m.month = l.month and m.charge_period_start is null
left join properties p
  on p.resource_key = l.resource_key and p.month = l.month and p.charge_period_start = l.charge_period_start and p.charge_period_end = l.charge_period_end
left join several s on s.resource_key = l.resource_key and s.month = l.month
