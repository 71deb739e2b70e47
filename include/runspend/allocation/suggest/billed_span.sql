-- The time that is covered by bills with hourly or daily usage. A line of a whole day (such as a bucket's) shows only that its day has begun,
-- unless all bills are daily.
with lines as (
  select
    charge_period_start, charge_period_end, timestamp_diff(charge_period_end, charge_period_start, microsecond) < 82800000000 as is_by_hour
  from billing_lines
  where billing_period >= @first and charge_category = 'Usage' and charge_period_end > charge_period_start
    and at_most_a_day(charge_period_start, charge_period_end)
)
select
  min(charge_period_start) as since,
  case when count(case when is_by_hour then 1 end) > 0 then max(case when is_by_hour then charge_period_end else charge_period_start end)
    else max(charge_period_end) end as upto
from lines
