-- one row per bucket (or storage account) and storage class on the period's lines: the time that they cover, and how many bytes they bill.
-- A null class means all classes.
with lines as (
  select
    l.storage_key, l.storage_class, l.charge_period_start, l.charge_period_end,
    -- Bytes that were deleted early, and bytes that fill small objects up to a minimum, are billed but not stored.
    case when l.charge_category = 'Usage' and not regexp_contains(lower(coalesce(b.sku_meter, b.charge_description, '')), r'early.?delet|smobjects')
      then case when is_byte_time(lower(b.consumed_unit)) then lower(b.consumed_unit) else lower(b.pricing_unit) end end as unit,
    case when is_byte_time(lower(b.consumed_unit)) then b.consumed_quantity else b.pricing_quantity end as quantity
  from rest_lines l
  join billing_lines b on b.source = l.source and b.line_id = l.line_id
  where b.billing_period = @period and l.storage_key is not null and l.line_kind <> 'fee' and coalesce(l.scope, '') <> 'exclude'
),
quantities as (
  select
    storage_key, storage_class, cast(cast(sum(quantity) as string) as float64) as quantity,
    regexp_extract(unit, r'^(?:1 )?([kmgtp])') as size, regexp_extract(unit, r'[-/ *]([mdhs])[a-z]*$') as time,
    extract(day from last_day(@period, month)) * 1.0 as days
  from lines
  where is_byte_time(unit) and quantity is not null
  group by storage_key, storage_class, unit
),
billed as (
  -- In GiB over the whole month. Clouds bill storage in units of 1,024, even if they write GB instead of GiB.
  select
    storage_key, storage_class,
    exact_money(quantity
      * case size when 'k' then 1.0 / 1048576.0 when 'm' then 1.0 / 1024.0 when 'g' then 1.0 when 't' then 1024.0 when 'p' then 1048576.0 else 1.0 / 1073741824.0 end
      / case time when 'm' then 1.0 when 'd' then days when 'h' then days * 24.0 else days * 86400.0 end) as gib_months
  from quantities
),
of_buckets as (
  select storage_key, cast(cast(sum(gib_months) as string) as float64) as gib_months
  from billed
  group by storage_key
),
of_classes as (
  select storage_key, storage_class, cast(cast(sum(gib_months) as string) as float64) as gib_months
  from billed
  where storage_class is not null
  group by storage_key, storage_class
),
candidates as (
  select
    storage_key, storage_class,
    case when storage_class is null then storage_key else concat(storage_key, '|', storage_class) end as target_key,
    timestamp(@period) as window_start,
    timestamp(date_add(@period, interval 1 month)) as window_end,
    greatest(timestamp(@period), min(charge_period_start)) as billed_from,
    -- Objects that still exist count until the end of the billed time.
    least(
      timestamp(date_add(@period, interval 1 month)),
      case when max(charge_period_end) > timestamp(@period) then max(charge_period_end) else timestamp(date_add(@period, interval 1 month)) end) as billed_until
  from lines
  group by storage_key, storage_class
)
select
  c.storage_key, c.storage_class, c.target_key, c.window_start, c.window_end, c.billed_from, c.billed_until,
  case when c.storage_class is null then b.gib_months else k.gib_months end as gib_months, b.gib_months as bucket_gib_months
from candidates c
left join of_buckets b on b.storage_key = c.storage_key
left join of_classes k on k.storage_key = c.storage_key and k.storage_class = c.storage_class
