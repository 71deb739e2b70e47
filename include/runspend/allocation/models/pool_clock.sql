-- one row per pool and mark (a start or stop of a claim or of a window): clocks that advance only while somebody asks, in ticks of 1/64 nanosecond
with changes as (
  select pool_number, interval_start as mark, weight, nodes, 0 as units, 0 as machines, 0 as taken_units, 0 as taken_machines
  from pool_claims
  where not is_family
  union all
  select pool_number, interval_end, -weight, -nodes, 0, 0, 0, 0
  from pool_claims
  where not is_family
  union all
  -- however many of a family are there, they ask for what one asks
  select
    pool_number, mark,
    weight - coalesce(lag(weight) over claim, 0),
    nodes - coalesce(lag(nodes) over claim, 0),
    0, 0, 0, 0
  from pool_families
  window claim as (partition by pool_number, claim_number order by mark)
  union all
  select pool_number, window_start, 0, 0, units, machines, 0, 0
  from pool_windows
  union all
  select pool_number, window_end, 0, 0, -units, -machines, 0, 0
  from pool_windows
  union all
  select pool_number, used_from, 0, 0, 0, 0, 0, 0
  from pool_uses
  union all
  select pool_number, used_to, 0, 0, 0, 0, 0, 0
  from pool_uses
  union all
  select pool_number, taken_from, 0, 0, 0, 0, units, machines
  from pool_taken
  union all
  select pool_number, taken_to, 0, 0, 0, 0, -units, -machines
  from pool_taken
),
marks as (
  select
    pool_number, mark, cast(sum(weight) as int64) as weight, cast(sum(nodes) as int64) as nodes,
    cast(sum(units) as int64) as units, cast(sum(machines) as int64) as machines,
    cast(sum(taken_units) as int64) as taken_units, cast(sum(taken_machines) as int64) as taken_machines
  from changes
  group by pool_number, mark
),
kinds as (
  select distinct pool_number, has_units
  from pool_claims
),
slices as (
  select
    m.pool_number, m.mark, k.has_units,
    cast(sum(m.weight) over w as int64) as weight, cast(sum(m.nodes) over w as int64) as nodes,
    cast(sum(m.units) over w as int64) as units, cast(sum(m.machines) over w as int64) as machines,
    cast(sum(m.taken_units) over w as int64) as taken_units, cast(sum(m.taken_machines) over w as int64) as taken_machines,
    timestamp_diff(lead(m.mark) over w, m.mark, microsecond) * 64000 as ticks
  from marks m
  join kinds k on k.pool_number = m.pool_number
  window w as (partition by m.pool_number order by m.mark)
),
demands as (
  -- what is asked against what there is, and what of it no run has that states its machine: units where the machines state them, else machines
  select
    pool_number, mark, has_units, weight, ticks,
    case when has_units then weight else nodes end as asked,
    case when has_units then units else machines end as there,
    case when has_units then greatest(units - coalesce(taken_units, 0), 0) else greatest(machines - taken_machines, 0) end as free
  from slices
),
given as (
  -- what all who ask have of what there is; two steps, since ticks x units can pass 2^63. A window without machines is theirs who ask
  select
    pool_number, mark, has_units, weight, ticks, asked, there, free,
    case
      when asked <= 0 then 0
      when there <= 0 then ticks
      else div(ticks, there) * least(asked, free) + div(mod(ticks, there) * least(asked, free), there)
    end as busy_advance
  from demands
),
advances as (
  select
    pool_number, mark, busy_advance,
    -- per unit of weight
    case
      when asked <= 0 then 0
      when asked > free then div(busy_advance, weight)
      when has_units then div(ticks, there)
      else 0
    end as weight_advance,
    -- per node: while there is a machine for every node, what units are unknown do not matter
    case when asked <= 0 or has_units or asked > free then 0 else div(ticks, there) end as node_advance,
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
