-- one row per pool with lines, a configured one or all machines of an instance type: its number, and how far the bills with its lines reach
with source_frontiers as (
  -- as for machines that runs state: the next period tells who was still alive at the end of this one
  select source, least(max(charge_period_end), timestamp_add(@window_end, interval @alive_hours hour)) as billed_until
  from billing_lines
  where billing_period in (@period, cast(date_add(@period, interval 1 month) as date))
    and (pool_key is not null or instance_type is not null)
    and charge_period_end > charge_period_start
    and timestamp_diff(charge_period_end, charge_period_start, microsecond) <= 90000000000
  group by source
),
found as (
  select distinct match_method, target_key, source
  from timed_candidates
)
select
  p.match_method, p.target_key,
  row_number() over (order by p.match_method, p.target_key) as pool_number,
  max(f.billed_until) as billed_until
from found p
join source_frontiers f on f.source = p.source
group by p.match_method, p.target_key
