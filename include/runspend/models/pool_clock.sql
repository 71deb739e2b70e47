-- one row per pool and mark (a start or stop of a claim or of a window): clocks that advance only while somebody asks, in ticks of 1/64 nanosecond
with changes as (
  select pool_number, interval_start as mark, weight, nodes, 0 as units, 0 as machines
  from pool_claims
  where not is_family
  union all
  select pool_number, interval_end, -weight, -nodes, 0, 0
  from pool_claims
  where not is_family
  union all
  -- however many of a family are there, they ask for what one asks
  select
    pool_number, mark,
    weight * (least(members, 1) - least(coalesce(lag(members) over claim, 0), 1)),
    nodes * (least(members, 1) - least(coalesce(lag(members) over claim, 0), 1)),
    0, 0
  from pool_families
  window claim as (partition by pool_number, claim_number order by mark)
  union all
  select pool_number, window_start, 0, 0, units, machines
  from pool_windows
  union all
  select pool_number, window_end, 0, 0, -units, -machines
  from pool_windows
  union all
  select pool_number, used_from, 0, 0, 0, 0
  from pool_uses
  union all
  select pool_number, used_to, 0, 0, 0, 0
  from pool_uses
),
marks as (
  select
    pool_number, mark, cast(sum(weight) as int64) as weight, cast(sum(nodes) as int64) as nodes,
    cast(sum(units) as int64) as units, cast(sum(machines) as int64) as machines
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
    timestamp_diff(lead(m.mark) over w, m.mark, microsecond) * 64000 as ticks
  from marks m
  join kinds k on k.pool_number = m.pool_number
  window w as (partition by m.pool_number order by m.mark)
),
demands as (
  -- what is asked against what there is: units where the machines state them, else machines
  select
    pool_number, mark, has_units, weight, nodes, machines, ticks,
    case when has_units then weight else nodes end as asked,
    case when has_units then units else machines end as there
  from slices
),
advances as (
  select
    pool_number, mark,
    -- per unit of weight
    case when asked <= 0 then 0 when has_units then div(ticks, greatest(weight, there)) when nodes > machines then div(ticks, weight) else 0 end as weight_advance,
    -- per node: while there is a machine for every node, what units are unknown do not matter
    case when asked <= 0 or has_units or nodes > machines then 0 else div(ticks, machines) end as node_advance,
    -- what all have of the machines together; two steps, since ticks x weight can pass 2^63
    case when asked <= 0 then 0 when asked >= there then ticks else div(ticks, there) * asked + div(mod(ticks, there) * asked, there) end as busy_advance,
    case when asked > there and there > 0 then ticks else 0 end as over_advance,
    case when asked > 0 or there > 0 then ticks else 0 end as open_advance
  from demands
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
