-- one row per bucket (or storage account) and storage class on the period's lines, and the time they cover. No class means any class.
select
  storage_key, storage_class,
  case when storage_class is null then storage_key else concat(storage_key, '|', storage_class) end as target_key,
  timestamp(@period) as window_start,
  timestamp(date_add(@period, interval 1 month)) as window_end,
  greatest(timestamp(@period), min(charge_period_start)) as billed_from,
  -- Objects that are still there count up to the end of the billed time.
  least(
    timestamp(date_add(@period, interval 1 month)),
    case when max(charge_period_end) > timestamp(@period) then max(charge_period_end) else timestamp(date_add(@period, interval 1 month)) end) as billed_until
from rest_lines
where storage_key is not null and line_kind <> 'fee' and coalesce(scope, '') <> 'exclude'
group by storage_key, storage_class
