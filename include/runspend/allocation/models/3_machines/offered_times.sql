-- one row per pool or instance type, charge period, machine size, kind of line (of one machine or several) and shard of machines:
-- how many stated machines of that size have time left, and their total time.
-- Usage of an earlier month is on that month's bill. A correction or credit of a machine for that month proves that the machine ran, for the
-- time on that bill.
with lines as (
  select
    match_method, target_key, resource_key, charge_period_start, charge_period_end, source, sku_id, window_start, window_end,
    machine_gpus, machine_cpus, machine_memory_gb, free_nanoseconds,
    case when charge_category = 'Usage' and charge_class is null then billed_nanoseconds end as billed_nanoseconds
  from offered_lines
  where (charge_category = 'Usage' and charge_class is null) or charge_period_end <= timestamp(@period)
),
machines as (
  -- Names are long and there are many charge periods, so numbers replace the names.
  select
    match_method, target_key, resource_key, row_number() over (order by match_method, target_key, resource_key) as machine_number,
    nullif(max(machine_gpus), 0) as machine_gpus, nullif(max(machine_cpus), 0) as machine_cpus, nullif(max(machine_memory_gb), 0) as machine_memory_gb
  from lines
  group by match_method, target_key, resource_key
),
skus as (
  select
    m.machine_number, l.charge_period_start, l.charge_period_end, l.source, coalesce(l.sku_id, '') as sku_id,
    min(l.window_start) as window_start, min(l.window_end) as window_end,
    nullif(greatest(sum(l.billed_nanoseconds), 0), 0) as billed_nanoseconds, max(l.free_nanoseconds) as free_nanoseconds
  from lines l
  join machines m on m.match_method = l.match_method and m.target_key = l.target_key and m.resource_key = l.resource_key
  group by m.machine_number, l.charge_period_start, l.charge_period_end, l.source, coalesce(l.sku_id, '')
),
charges as (
  -- As in pool_machines. If runs that state the machine used it, this is the time that they leave.
  select
    s.machine_number, min(s.window_start) as window_start, min(s.window_end) as window_end,
    coalesce(
      max(s.free_nanoseconds), max(s.billed_nanoseconds), max(e.billed_nanoseconds),
      timestamp_diff(s.charge_period_end, s.charge_period_start, microsecond) * 1000) as billed_nanoseconds
  from skus s
  join machines m on m.machine_number = s.machine_number
  left join earlier_times e
    on e.resource_key = m.resource_key and e.charge_period_start = s.charge_period_start and e.charge_period_end = s.charge_period_end
  group by s.machine_number, s.charge_period_start, s.charge_period_end
),
billed as (
  select
    machine_number, window_start, window_end, cast(sum(billed_nanoseconds) as int64) as billed_nanoseconds,
    timestamp_diff(window_end, window_start, microsecond) * 1000 as window_nanoseconds
  from charges
  group by machine_number, window_start, window_end
),
counted as (
  select
    machine_number, window_start, window_end, billed_nanoseconds, window_nanoseconds,
    greatest(1, div((billed_nanoseconds - div(window_nanoseconds, 100) + window_nanoseconds - 1), window_nanoseconds)) as machine_count
  from billed
)
select
  m.match_method, m.target_key, c.window_start, c.window_end, m.machine_gpus, m.machine_cpus, m.machine_memory_gb,
  cast(sum(c.machine_count) as int64) as machine_count,
  cast(sum(div(least(c.billed_nanoseconds, c.machine_count * c.window_nanoseconds), 1000)) as int64) as billed_microseconds,
  coalesce(u.is_several, false) as is_several
from counted c
join machines m on m.machine_number = c.machine_number
left join machine_units u on u.resource_key = m.resource_key and u.month = charge_month(date(c.window_start))
group by m.match_method, m.target_key, c.window_start, c.window_end, m.machine_gpus, m.machine_cpus, m.machine_memory_gb, coalesce(u.is_several, false)
