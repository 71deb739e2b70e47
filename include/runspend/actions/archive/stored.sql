-- One row per store, month and storage class: mean bytes over the time of the month that was listed; null when unknown.
-- In a month listed only once so far no time has passed: there the mean is what that listing found.
with
stretches as (
  select
    store,
    month,
    storage_class,
    bytes,
    is_complete,
    valid_from,
    valid_to is null as is_current,
    least(coalesce(valid_to, @now), @now) as ends_at
  from artifact_bytes
  where month >= @since
),
listed as (
  select
    store,
    month,
    timestamp_diff(max(ends_at), min(valid_from), microsecond) as microseconds
  from stretches
  group by store, month
),
weighted as (
  select
    s.store,
    s.month,
    s.storage_class,
    s.bytes,
    s.is_complete,
    if(l.microseconds > 0, timestamp_diff(s.ends_at, s.valid_from, microsecond), if(s.is_current, 1, 0)) as part,
    greatest(l.microseconds, 1) as whole
  from stretches as s
  inner join listed as l
    on l.store = s.store
    and l.month = s.month
)
select
  store,
  month,
  storage_class,
  if(
    logical_and(bytes is not null and is_complete),
    sum(cast(bytes as float64) * cast(part as float64) / cast(whole as float64)),
    null
  ) as mean_bytes
from weighted
group by store, month, storage_class
