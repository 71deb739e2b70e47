-- one row per line no machine rule settled and key it may follow machines by, the closest first; its window, an hour where it lies in one
with parts as (
  select distinct target_key from attached_parts
  union distinct
  select distinct target_key from job_attached_parts
),
windows as (
  select
    source, line_id, attached_to, group_keys, array_to_string(group_keys, chr(31)) as group_text, charge_period_start, charge_period_end,
    charge_period_end <= timestamp_add(timestamp_trunc(charge_period_start, hour), interval 1 hour) as is_in_an_hour
  from rest_lines
  where known_by is null and charge_period_end > charge_period_start
    and timestamp_diff(charge_period_end, charge_period_start, microsecond) <= 90000000000
    and (attached_to is not null or array_length(group_keys) > 0)
),
keyed as (
  select source, line_id, concat('machine|', attached_to) as target_key, 0 as distance, is_in_an_hour, charge_period_start, charge_period_end
  from windows
  where attached_to is not null
  union all
  select
    source, line_id, group_key, strpos(concat(chr(31), group_text, chr(31)), concat(chr(31), group_key, chr(31))), is_in_an_hour, charge_period_start, charge_period_end
  from windows
  cross join unnest(group_keys) as group_key
)
select
  k.source, k.line_id, k.target_key, k.distance,
  case when k.is_in_an_hour then timestamp_trunc(k.charge_period_start, hour) else k.charge_period_start end as window_start,
  case when k.is_in_an_hour then timestamp_add(timestamp_trunc(k.charge_period_start, hour), interval 1 hour) else k.charge_period_end end as window_end
from keyed k
join parts p on p.target_key = k.target_key
