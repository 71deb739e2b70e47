-- one row per machine and charge period of an earlier month, if late charges for those days are attached to the machine or share a group
-- with it, and only the earlier bill has the charge period: the machine's time, size and groups at that time
with late as (
  select
    attached_to, resource_key, nullif(min(array_to_string(group_keys, chr(31))), '') as group_text,
    min(date(charge_period_start)) as first_day, max(date(charge_period_end)) as last_day
  from billing_lines
  where billing_period = @period and charge_date < @period and (attached_to is not null or array_length(group_keys) > 0)
    and charge_period_end > charge_period_start and at_most_a_day(charge_period_start, charge_period_end)
  group by attached_to, resource_key, array_to_string(group_keys, chr(31)), charge_date
),
late_days as (
  -- A local day may begin on the previous UTC day.
  select distinct attached_to, resource_key, group_text, day
  from late
  cross join unnest(generate_date_array(date_sub(first_day, interval 1 day), last_day)) as day
),
sets as (
  select distinct b.resource_key, array_to_string(b.group_keys, chr(31)) as group_text, b.charge_date as day
  from billing_lines b
  join (select distinct day from late_days where group_text is not null) d on d.day = b.charge_date
  where b.billing_period >= cast(date_trunc(date(@window_start), month) as date) and b.billing_period < @period
    and b.resource_key is not null and array_length(b.group_keys) > 0 and b.charge_category = 'Usage'
    and b.service_category in ('Compute', 'AI and Machine Learning') and (b.billed_nanoseconds > 0 or b.instance_type is not null)
),
keys as (
  select distinct group_text, group_key
  from (select distinct group_text from sets)
  cross join unnest(split(group_text, chr(31))) as group_key
),
whole_and_short_keys as (
  select group_text, group_key from keys
  union distinct
  -- A node group may be named without its cluster.
  select group_text, regexp_replace(group_key, r'^([^|@]*)@[^|]*', r'\1') from keys
),
late_keys as (
  -- A machine is not attached to groups of other machines.
  select distinct group_key, l.day
  from late_days l
  left join (select distinct resource_key from sets) m on m.resource_key = l.resource_key
  cross join unnest(split(l.group_text, chr(31))) as group_key
  where m.resource_key is null and l.group_text is not null
),
days as (
  select resource_key, day
  from (select attached_to as resource_key, day from late_days where attached_to is not null)
  union distinct
  select s.resource_key, s.day
  from late_keys l
  join whole_and_short_keys k on k.group_key = l.group_key
  join sets s on s.group_text = k.group_text and s.day = l.day
),
charged as (
  -- Charge periods that this bill corrects are already on this bill.
  select distinct l.resource_key, l.charge_period_start, l.charge_period_end
  from billing_lines l
  join (select distinct resource_key from days) m on m.resource_key = l.resource_key
  where l.billing_period = @period and l.charge_date < @period
    and l.charge_period_end > l.charge_period_start and at_most_a_day(l.charge_period_start, l.charge_period_end)
),
skus as (
  select
    b.resource_key, b.charge_period_start, b.charge_period_end, b.source, b.sku_id, nullif(greatest(sum(b.billed_nanoseconds), 0), 0) as billed_nanoseconds,
    max(b.machine_gpus) as machine_gpus, max(b.machine_cpus) as machine_cpus, max(b.machine_memory_gb) as machine_memory_gb, min(b.job_key) as job_key,
    nullif(min(array_to_string(b.group_keys, chr(31))), '') as group_text, min(b.region_id) as region_id
  from billing_lines b
  join days d on d.resource_key = b.resource_key and d.day = b.charge_date
  where b.billing_period >= cast(date_trunc(date(@window_start), month) as date) and b.billing_period < @period
    and b.charge_category = 'Usage' and b.charge_class is null and b.run_tag is null and not is_unused(b.commitment_discount_status, b.capacity_reservation_status)
    and b.service_category in ('Compute', 'AI and Machine Learning') and (b.billed_nanoseconds > 0 or b.instance_type is not null)
    and b.charge_period_end > b.charge_period_start and at_most_a_day(b.charge_period_start, b.charge_period_end)
  group by b.resource_key, b.charge_period_start, b.charge_period_end, b.source, b.sku_id
),
charges as (
  -- As in machine_slots: the largest SKU is the machine.
  select
    resource_key, charge_period_start, charge_period_end, min(source) as source,
    cast(coalesce(max(billed_nanoseconds), timestamp_diff(charge_period_end, charge_period_start, microsecond) * 1000) as int64) as billed_nanoseconds,
    nullif(max(machine_gpus), 0) as machine_gpus, nullif(max(machine_cpus), 0) as machine_cpus, nullif(max(machine_memory_gb), 0) as machine_memory_gb,
    min(job_key) as job_key, min(group_text) as group_text, min(region_id) as region_id
  from skus
  group by resource_key, charge_period_start, charge_period_end
)
select
  c.resource_key, charge_month(date(c.charge_period_start)) as month, c.charge_period_start, c.charge_period_end, c.source, c.billed_nanoseconds,
  c.machine_gpus, c.machine_cpus, c.machine_memory_gb, c.job_key,
  c.group_text, c.region_id
from charges c
left join charged o
  on o.resource_key = c.resource_key and o.charge_period_start < c.charge_period_end and o.charge_period_end > c.charge_period_start
where o.resource_key is null
