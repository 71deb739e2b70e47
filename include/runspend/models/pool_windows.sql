-- one row per pool and window: how many machines it bills, and for how long on average
with windows as (
  select distinct p.pool_number, c.window_start, c.window_end
  from timed_candidates c
  join pools p on p.match_method = c.match_method and p.target_key = c.target_key
),
kinds as (
  select distinct pool_number, weight_kind, has_units, unit_scale
  from pool_claims
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
  left join kinds k on k.pool_number = m.pool_number
),
sums as (
  select
    pool_number, window_start, window_end,
    cast(sum(machine_count) as int64) as machines, cast(sum(machine_count * machine_units) as int64) as units,
    cast(sum(billed_microseconds) as int64) as billed_microseconds,
    cast(sum(billed_microseconds * machine_units) as int64) as unit_microseconds
  from sized
  group by pool_number, window_start, window_end
)
select
  w.pool_number, w.window_start, w.window_end,
  coalesce(s.machines, 0) as machines, coalesce(s.units, 0) as units, coalesce(s.billed_microseconds, 0) as billed_microseconds,
  -- of a unit, in ticks of 1/64 nanosecond
  case when s.units > 0 then div(s.unit_microseconds, s.units) * 64000 + div(mod(s.unit_microseconds, s.units) * 64000, s.units) end as billed_ticks
from windows w
left join sums s on s.pool_number = w.pool_number and s.window_start = w.window_start and s.window_end = w.window_end
