-- one row per pool and mark. Marks are the starts and ends of claims and of charge periods.
-- The row has clocks that advance only while there are claims, in ticks of 1/64 nanosecond.
with changes as (
  select
    pool_number, interval_start as mark, weight, nodes, case when is_unknown then 1 else 0 end as unknown,
    0 as units, 0 as machines, 0 as taken_units, 0 as taken_machines
  from pool_claims
  where not is_family
  union all
  select pool_number, interval_end, -weight, -nodes, case when is_unknown then -1 else 0 end, 0, 0, 0, 0
  from pool_claims
  where not is_family
  union all
  -- A family asks for as much as one run, no matter how many members are active.
  select
    pool_number, mark,
    weight - coalesce(lag(weight) over claim, 0),
    nodes - coalesce(lag(nodes) over claim, 0),
    0, 0, 0, 0, 0
  from pool_families
  window claim as (partition by pool_number, claim_number order by mark)
  union all
  select pool_number, window_start, 0, 0, 0, units, machines, 0, 0
  from pool_windows
  union all
  select pool_number, window_end, 0, 0, 0, -units, -machines, 0, 0
  from pool_windows
  union all
  select pool_number, used_from, 0, 0, 0, 0, 0, 0, 0
  from pool_uses
  union all
  select pool_number, used_to, 0, 0, 0, 0, 0, 0, 0
  from pool_uses
  union all
  select pool_number, taken_from, 0, 0, 0, 0, 0, units, machines
  from pool_taken
  union all
  select pool_number, taken_to, 0, 0, 0, 0, 0, -units, -machines
  from pool_taken
),
marks as (
  select
    pool_number, mark, cast(sum(weight) as int64) as weight, cast(sum(nodes) as int64) as nodes, cast(sum(unknown) as int64) as unknown,
    cast(sum(units) as int64) as units, cast(sum(machines) as int64) as machines,
    cast(sum(taken_units) as int64) as taken_units, cast(sum(taken_machines) as int64) as taken_machines
  from changes
  group by pool_number, mark
),
kinds as (
  select distinct pool_number, has_units
  from pool_claims
),
demands as (
  -- Compares claims with the machines that exist and with the part that stated machines leave free. Compares units if the machines state
  -- them, otherwise machines.
  select
    m.pool_number, m.mark, k.has_units, m.weight, m.nodes, m.unknown, case when k.has_units then m.weight else m.nodes end as asked,
    case when k.has_units then m.units else m.machines end as there, case when k.has_units then m.taken_units else m.taken_machines end as taken
  from marks m
  join kinds k on k.pool_number = m.pool_number
),
slices as (
  select
    pool_number, mark, has_units,
    cast(sum(weight) over w as int64) as weight, cast(sum(nodes) over w as int64) as nodes, cast(sum(unknown) over w as int64) as unknown, cast(sum(asked) over w as int64) as asked,
    cast(sum(there) over w as int64) as there, cast(sum(taken) over w as int64) as taken,
    timestamp_diff(lead(mark) over w, mark, microsecond) * 64000 as ticks
  from demands
  window w as (partition by pool_number order by mark)
),
offers as (
  select pool_number, mark, has_units, weight, nodes, unknown, ticks, asked, there, greatest(there - coalesce(taken, 0), 0) as free
  from slices
),
given as (
  -- The share of the pool that all claims have together. Computed in two steps, because ticks x units can exceed 2^63.
  -- A charge period without machines belongs entirely to the claims.
  select
    pool_number, mark, has_units, weight, nodes, unknown, ticks, asked, there, free,
    case
      when asked <= 0 then 0
      when there <= 0 then ticks
      else div(ticks, there) * least(asked, free) + div(mod(ticks, there) * least(asked, free), there)
    end as busy_advance
  from offers
),
advances as (
  select
    pool_number, mark, busy_advance,
    -- Advance of the clock per unit of weight.
    case
      when asked <= 0 then 0
      when asked > free and unknown > 0 then 0
      when asked > free then div(busy_advance, weight)
      when has_units then div(ticks, there)
      else 0
    end as weight_advance,
    -- Advance of the clock per node. While there is a machine for every node, unknown units do not matter.
    -- If there are fewer machines than nodes, runs with unknown units have the same weight as the others.
    case
      when asked <= 0 then 0
      when asked > free then case when unknown > 0 then div(busy_advance, nodes) else 0 end
      when has_units then 0
      else div(ticks, there)
    end as node_advance,
    case when asked > free and there > 0 then ticks else 0 end as over_advance,
    case when asked > 0 or there > 0 then ticks else 0 end as open_advance
  from given
)
select
  pool_number, mark,
  cast(coalesce(sum(weight_advance) over w, 0) as int64) as weight_clock,
  cast(coalesce(sum(node_advance) over w, 0) as int64) as node_clock,
  cast(coalesce(sum(busy_advance) over w, 0) as int64) as busy_clock,
  cast(coalesce(sum(over_advance) over w, 0) as int64) as over_clock,
  cast(coalesce(sum(open_advance) over w, 0) as int64) as open_clock
from advances
window w as (partition by pool_number order by mark rows between unbounded preceding and 1 preceding)
