-- one row per pool and charge period: how many machines it bills, and their average billed time
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
    m.pool_number, m.window_start, m.window_end, m.machine_count, m.billed_microseconds,
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
    cast(sum(billed_microseconds) as int64) as billed_microseconds,
    cast(sum(billed_microseconds * machine_units) as int64) as unit_microseconds
  from sized
  group by pool_number, window_start, window_end
),
billed as (
  -- A pool for a statement that matches several cells consists of those cells.
  select
    c.pool_number, w.window_start, w.window_end,
    cast(coalesce(sum(s.machines), 0) as int64) as machines, cast(coalesce(sum(s.units), 0) as int64) as units,
    cast(coalesce(sum(s.billed_microseconds), 0) as int64) as billed_microseconds, cast(coalesce(sum(s.unit_microseconds), 0) as int64) as unit_microseconds
  from windows w
  join pool_cells c on c.cell_number = w.pool_number
  left join sums s on s.pool_number = w.pool_number and s.window_start = w.window_start and s.window_end = w.window_end
  group by c.pool_number, w.window_start, w.window_end
)
select
  pool_number, window_start, window_end, machines, units, billed_microseconds, unit_microseconds,
  -- Billed time per unit, in ticks of 1/64 nanosecond.
  case when units > 0 then div(unit_microseconds, units) * 64000 + div(mod(unit_microseconds, units) * 64000, units) end as billed_ticks
from billed
