-- one row per bucket (or storage account) and storage class of the period's lines, any class where a line names none: from when to when they reach
select
  storage_key, storage_class,
  case when storage_class is null then storage_key else concat(storage_key, '|', storage_class) end as target_key,
  timestamp(@period) as window_start,
  timestamp(date_add(@period, interval 1 month)) as window_end,
  greatest(timestamp(@period), min(charge_period_start)) as billed_from,
  -- what still lies there is counted as far as the bill goes
  least(
    timestamp(date_add(@period, interval 1 month)),
    case when max(charge_period_end) > timestamp(@period) then max(charge_period_end) else timestamp(date_add(@period, interval 1 month)) end) as billed_until
from rest_lines
where known_by is null and storage_key is not null and line_kind <> 'fee' and coalesce(scope, '') <> 'exclude'
group by storage_key, storage_class
