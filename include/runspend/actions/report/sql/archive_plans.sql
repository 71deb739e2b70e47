-- Items of retention policies by policy and state, from the newest plan up to the month's end.
select
  policy, action, state,
  count(*) as folders,
  sum(bytes) as bytes,
  sum(monthly_saving) as monthly_saving,
  min(currency) as currency,
  min(earliest_at) as earliest_at
from archive_plan
where month = (select max(month) from archive_plan where month < @next)
group by policy, action, state
order by policy, state
