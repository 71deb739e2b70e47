-- one row per pool and charge period: how many machines it bills, and their average billed time.
-- The time that a line of several machines bills tells only the least number of them. The runs that ask for several say how many there were.
with windows as (
  select distinct p.pool_number, c.window_start, c.window_end
  from (
    select match_method, target_key, window_start, window_end from timed_candidates
    union distinct
    select match_method, target_key, window_start, window_end from offered_sums
  ) c
  join pools p on p.match_method = c.match_method and p.target_key = c.target_key
),
kinds as (
  select distinct p.kind_number, c.weight_kind, c.has_units, c.unit_scale
  from pool_claims c
  join pools p on p.pool_number = c.pool_number
),
sized as (
  select
    m.pool_number, m.window_start, m.window_end, m.machine_count, m.billed_microseconds, m.is_uncounted, m.is_offered,
    case
      when not coalesce(k.has_units, false) then 1
      when k.weight_kind = 'gpu' then m.machine_gpus * k.unit_scale
      when k.weight_kind = 'cpu' then m.machine_cpus * k.unit_scale
      else cast(ceil(m.machine_memory_gb) as int64)
    end as machine_units
  from pool_machines m
  join pools p on p.pool_number = m.pool_number
  left join kinds k on k.kind_number = p.kind_number
),
sums as (
  select
    pool_number, window_start, window_end,
    cast(sum(machine_count) as int64) as machines, cast(sum(machine_count * machine_units) as int64) as units,
    cast(sum(case when is_offered then machine_count * machine_units end) as int64) as offered_units,
    cast(sum(billed_microseconds) as int64) as billed_microseconds,
    cast(sum(billed_microseconds * machine_units) as int64) as unit_microseconds, logical_or(is_uncounted) as is_uncounted
  from sized
  group by pool_number, window_start, window_end
),
billed as (
  -- A pool for a statement that matches several cells consists of those cells.
  select
    c.pool_number, w.window_start, w.window_end,
    cast(coalesce(sum(s.machines), 0) as int64) as machines, cast(coalesce(sum(s.units), 0) as int64) as units,
    cast(coalesce(sum(s.offered_units), 0) as int64) as offered_units,
    cast(coalesce(sum(s.billed_microseconds), 0) as int64) as billed_microseconds, cast(coalesce(sum(s.unit_microseconds), 0) as int64) as unit_microseconds,
    logical_or(coalesce(s.is_uncounted, false)) as is_uncounted
  from windows w
  join pool_cells c on c.cell_number = w.pool_number
  left join sums s on s.pool_number = w.pool_number and s.window_start = w.window_start and s.window_end = w.window_end
  group by c.pool_number, w.window_start, w.window_end
),
uncounted_hours as (
  select b.pool_number, b.window_start, b.window_end, hour_number
  from billed b
  cross join unnest(hours_between(b.window_start, b.window_end)) as hour_number
  where b.is_uncounted
),
claim_hours as (
  select c.pool_number, c.claim_number, c.nodes, c.weight, c.interval_start, c.interval_end, hour_number
  from pool_claims c
  cross join unnest(hours_between(c.interval_start, c.interval_end)) as hour_number
),
asking as (
  select w.pool_number, w.window_start, w.window_end, c.claim_number, max(c.nodes) as nodes, max(c.weight) as weight, max(c.weight - div(c.weight, c.nodes)) as other_weight
  from uncounted_hours w
  join claim_hours c on c.pool_number = w.pool_number and c.hour_number = w.hour_number
    and c.interval_start < w.window_end and c.interval_end > w.window_start
  group by w.pool_number, w.window_start, w.window_end, c.claim_number
),
asked as (
  -- Of the machines of a claim, one is counted already.
  select
    a.pool_number, a.window_start, a.window_end,
    cast(sum(case when k.has_units then a.weight else a.nodes end) as int64) as units,
    cast(sum(case when k.has_units then a.other_weight else a.nodes - 1 end) as int64) as other_units
  from asking a
  join pools p on p.pool_number = a.pool_number
  join kinds k on k.kind_number = p.kind_number
  group by a.pool_number, a.window_start, a.window_end
),
added as (
  -- No more than the runs ask for. The rest of stated machines may be no whole machines.
  select a.pool_number, a.window_start, a.window_end, least(a.other_units, greatest(a.units - (b.units - b.offered_units), 0)) as units
  from asked a
  join billed b on b.pool_number = a.pool_number and b.window_start = a.window_start and b.window_end = a.window_end
),
enough as (
  select
    b.pool_number, b.window_start, b.window_end, b.billed_microseconds, b.unit_microseconds,
    -- Clocks count either units or machines.
    b.machines + coalesce(a.units, 0) as machines, b.units + coalesce(a.units, 0) as units
  from billed b
  left join added a on a.pool_number = b.pool_number and a.window_start = b.window_start and a.window_end = b.window_end
)
select
  pool_number, window_start, window_end, machines, units, billed_microseconds, unit_microseconds,
  -- Billed time per unit, in ticks of 1/64 nanosecond.
  case when units > 0 then div(unit_microseconds, units) * 64000 + div(mod(unit_microseconds, units) * 64000, units) end as billed_ticks
from enough
