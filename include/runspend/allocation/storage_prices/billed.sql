-- One row per storage class and artifact store that is a whole bucket: cost and byte_months.
-- Their quotient is the price of a byte per month.
-- If a month has only one listing so far, no time has passed, so the mean is the amount in that listing.
with
stretches as (
  select
    store,
    regexp_extract(store, r'^[a-z0-9]+://([^/]+)') as storage_key,
    month,
    storage_class,
    bytes + coalesce(noncurrent_bytes, 0) as bytes,
    bytes is not null and is_complete as is_known,
    valid_from,
    valid_to is null as is_current,
    least(coalesce(valid_to, @now), @now) as ends_at
  from artifact_bytes
  where month >= @since and regexp_contains(store, r'^(s3|gs)://[^/]+/*$')
),
listed as (
  select store, month, timestamp_diff(max(ends_at), min(valid_from), microsecond) as microseconds
  from stretches
  group by store, month
),
means as (
  select
    s.store, s.storage_key, s.month, s.storage_class,
    logical_and(s.is_known) as is_known,
    cast(round(sum(cast(s.bytes as float64)
      * cast(if(l.microseconds > 0, timestamp_diff(s.ends_at, s.valid_from, microsecond), if(s.is_current, 1, 0)) as float64)
      / cast(greatest(l.microseconds, 1) as float64))) as int64) as bytes
  from stretches s
  join listed l on l.store = s.store and l.month = s.month
  group by s.store, s.storage_key, s.month, s.storage_class
),
lines as (
  select
    storage_key, storage_class, billing_period, effective_cost, charge_date,
    timestamp_diff(charge_period_end, charge_period_start, microsecond) as microseconds
  from billing_lines
  where service_category = 'Storage'
    and charge_category = 'Usage'
    and storage_key is not null
    and billing_currency = @currency
    and billing_period >= @since
    -- Only bytes over time, not requests or retrieval.
    and is_byte_time(lower(coalesce(consumed_unit, pricing_unit, 'gb-mo')))
),
costs as (
  -- One row per class, and one row with class null for the whole bucket.
  select
    storage_key, storage_class, billing_period, false as is_whole, sum(effective_cost) as effective_cost,
    count(distinct charge_date) as days, max(microseconds) as longest, true as has_classes
  from lines
  where storage_class is not null
  group by storage_key, storage_class, billing_period
  union all
  select
    storage_key, cast(null as string), billing_period, true, sum(effective_cost),
    count(distinct charge_date), max(microseconds), logical_and(storage_class is not null)
  from lines
  group by storage_key, billing_period
),
measured as (
  -- The month with a listing that is closest to the month of the bill.
  select m.store, m.storage_key, c.billing_period, m.month
  from (select distinct store, storage_key, month from means) m
  join (select distinct storage_key, billing_period from costs) c on c.storage_key = m.storage_key
  qualify row_number() over (partition by m.store, c.billing_period order by abs(date_diff(m.month, c.billing_period, day)), m.month) = 1
),
rates as (
  select
    d.store, c.storage_class, c.is_whole, c.billing_period,
    logical_and(c.has_classes) as has_classes,
    -- If lines have at most a day, their days show for how long bytes were billed. Longer lines cover the whole month.
    max(if(c.longest <= 90000000000, c.effective_cost * extract(day from last_day(c.billing_period, month)), c.effective_cost)) as cost,
    sum(m.bytes) * max(if(c.longest <= 90000000000, c.days, 1)) as byte_months
  from costs c
  join measured d on d.storage_key = c.storage_key and d.billing_period = c.billing_period
  join means m on m.store = d.store and m.month = d.month and (c.is_whole or m.storage_class = c.storage_class)
  group by d.store, c.storage_class, c.is_whole, c.billing_period
  having logical_and(m.is_known) and sum(m.bytes) > 0 and max(c.effective_cost) > 0
),
newest as (
  select store, storage_class, is_whole, has_classes, cost, byte_months
  from rates
  qualify row_number() over (
    partition by store, storage_class, is_whole order by billing_period < @month desc, billing_period desc) = 1
),
classes as (
  select distinct store, storage_class from means
)
select
  k.store,
  k.storage_class,
  if(c.store is not null, c.cost, w.cost) as cost,
  cast(if(c.store is not null, c.byte_months, w.byte_months) as int64) as byte_months
from classes k
left join newest c on c.store = k.store and c.storage_class = k.storage_class and not c.is_whole
left join newest w on w.store = k.store and w.is_whole and (not w.has_classes or k.storage_class = 'UNKNOWN')
where c.store is not null or w.store is not null
order by k.store, k.storage_class
