-- one row per pool, stated machine in it and time range in which the runs that state it use it: the number of machines and units that are
-- therefore not available to claims on the pool.
with machines as (
  select
    p.pool_number, o.resource_key, max(o.machine_gpus) as machine_gpus, max(o.machine_cpus) as machine_cpus, max(o.machine_memory_gb) as machine_memory_gb
  from offered_machines o
  join pools p on p.match_method = o.match_method and p.target_key = o.target_key
  group by p.pool_number, o.resource_key
),
used as (
  -- Without claims on the pool, it does not matter which machines are in use.
  select distinct p.match_method, p.target_key, u.pool_number, u.window_start, u.window_end
  from pool_uses u
  join pools p on p.pool_number = u.pool_number
),
sized as (
  select
    m.pool_number, m.resource_key, k.has_units,
    case
      when not k.has_units then 1
      when k.weight_kind = 'gpu' then m.machine_gpus * k.unit_scale
      when k.weight_kind = 'cpu' then m.machine_cpus * k.unit_scale
      else cast(ceil(m.machine_memory_gb) as int64)
    end as machine_units
  from machines m
  join (select distinct pool_number, weight_kind, has_units, unit_scale from pool_claims) k on k.pool_number = m.pool_number
)
select
  s.pool_number, t.taken_from, t.taken_to,
  -- A machine that is partly free is available to claims that share machines by time.
  case when t.taken >= t.units then 1 else 0 end as machines,
  case
    when not s.has_units then cast(null as int64)
    when t.taken >= t.units then s.machine_units
    else div((s.machine_units * t.taken + t.units - 1), t.units)
  end as units
from offered_taken t
join used u on u.match_method = t.match_method and u.target_key = t.target_key and u.window_start = t.window_start and u.window_end = t.window_end
join sized s on s.pool_number = u.pool_number and s.resource_key = t.resource_key
