-- one row per bill, account, machine, its id there and currency:
-- its properties on lines since @lines_from, and the time until which they bill its use
with lines as (
  select
    source, coalesce(sub_account_id, billing_account_id, '') as account, resource_key, resource_id, region_id, billing_currency, job_key,
    lower(instance_type) as instance_type, machine_gpus, machine_cpus, machine_memory_gb, charge_period_start, charge_period_end, billed_nanoseconds,
    charge_category = 'Usage' as is_usage,
    service_category in ('Compute', 'AI and Machine Learning') and (billed_nanoseconds > 0 or instance_type is not null) as is_machine,
    case when charge_category = 'Usage' then billed_nanoseconds / (timestamp_diff(charge_period_end, charge_period_start, microsecond) * 1000.0) end as machines_billed
  from billing_lines
  where billing_period >= @first_period and charge_period_end > @lines_from and charge_period_start < @now
    and charge_period_end > charge_period_start and at_most_a_day(charge_period_start, charge_period_end)
    and resource_key is not null and charge_class is null and charge_category not in ('Purchase', 'Tax')
    and not is_unused(commitment_discount_status, capacity_reservation_status) and strpos(lower(coalesce(service_name, '')), 'support') = 0
),
recent as (
  select
    source, account, resource_key, resource_id, billing_currency,
    max(instance_type) as instance_type, max(machine_gpus) as machine_gpus, max(machine_cpus) as machine_cpus, max(machine_memory_gb) as machine_memory_gb,
    max(case when is_usage then charge_period_end end) as used_until,
    -- Billed by time or type, and never for longer than the charge period, except for up to 1% of rounding.
    -- A resource that is a job may have several machines.
    countif(ends_with(concat('/', lower(resource_key)), concat('/', regexp_extract(job_key, r'[^/]*$')))) = 0
      and countif(is_machine) > 0 and max(coalesce(machines_billed, 0)) <= 1.01 as is_one_machine,
    -- The most machines on one line, on average over its charge period. Less than 5% above one is rounding.
    case when max(machines_billed) > 1.05 then max(machines_billed) else 1.0 end as machines,
    -- The places in which its machine time is billed, for estimate_names.
    countif(is_usage and is_machine) > 0 as is_machine_time,
    min(case when is_usage and is_machine then region_id end) as first_region,
    max(case when is_usage and is_machine then region_id end) as last_region
  from lines
  group by source, account, resource_key, resource_id, billing_currency
),
machines as (
  -- Not every line of a machine has its type.
  select
    source, resource_key, max(instance_type) as instance_type, max(machine_gpus) as machine_gpus, max(machine_cpus) as machine_cpus,
    max(machine_memory_gb) as machine_memory_gb
  from recent
  group by source, resource_key
)
select
  r.source, r.account, r.resource_key, r.resource_id, r.billing_currency, r.used_until, r.is_one_machine, r.machines, r.is_machine_time, r.first_region, r.last_region,
  m.instance_type, m.machine_gpus, m.machine_cpus, m.machine_memory_gb,
  coalesce(m.instance_type, concat('machine ', r.resource_key)) as machine_type
from recent r
join machines m on m.source = r.source and m.resource_key = r.resource_key
