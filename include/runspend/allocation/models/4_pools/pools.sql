-- one row per pool: a configured pool with lines, a cell of an instance type, or several cells that a statement of runs matches.
-- The row has its number, the number of the pools that share a kind of weight, and the time until which the bills with its lines are complete.
with source_frontiers as (
  -- As for stated machines: the next period shows which runs were still active at the end of this one.
  select source, least(max(charge_period_end), timestamp_add(@window_end, interval @alive_hours hour)) as billed_until
  from billing_lines
  where billing_period in (@period, cast(date_add(@period, interval 1 month) as date))
    and (pool_key is not null or instance_type is not null)
    and charge_period_end > charge_period_start
    and at_most_a_day(charge_period_start, charge_period_end)
  group by source
),
billed as (
  select match_method, target_key, case when match_method = 'instance_type_time' then lower(instance_type) end as instance_type, source
  from timed_candidates
  union distinct
  select match_method, target_key, instance_type, source
  from offered_machines
),
found as (
  select match_method, target_key, instance_type, source, false as is_group
  from billed
  union all
  select distinct b.match_method, c.claim_key, b.instance_type, b.source, true
  from type_choices c
  join billed b on b.match_method = 'instance_type_time' and b.target_key = c.target_key
  where c.claim_key <> c.target_key
),
numbered as (
  select
    p.match_method, p.target_key, p.instance_type, p.is_group,
    row_number() over (order by p.match_method, p.target_key) as pool_number,
    -- Null if a bill has only late lines, which state no type.
    coalesce(max(f.billed_until), @window_end) as billed_until
  from found p
  left join source_frontiers f on f.source = p.source
  group by p.match_method, p.target_key, p.instance_type, p.is_group
)
select
  match_method, target_key, instance_type, is_group, pool_number,
  min(pool_number) over (partition by match_method, coalesce(instance_type, target_key)) as kind_number,
  billed_until
from numbered
