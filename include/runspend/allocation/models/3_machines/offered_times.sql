-- one row per pool or instance type, charge period, machine size and bucket of machines:
-- how many stated machines of that size have time left, and their total time
with skus as (
  select
    match_method, target_key, resource_key, charge_period_start, charge_period_end, source, coalesce(sku_id, '') as sku_id,
    min(window_start) as window_start, min(window_end) as window_end,
    sum(case when billed_nanoseconds > 0 then billed_nanoseconds end) as billed_nanoseconds, max(free_nanoseconds) as free_nanoseconds
  from offered_lines
  where charge_category = 'Usage' and charge_class is null
  group by match_method, target_key, resource_key, charge_period_start, charge_period_end, source, coalesce(sku_id, '')
),
charges as (
  -- As in pool_machines. Where runs that state the machine used it: the time that they leave.
  select
    match_method, target_key, resource_key, min(window_start) as window_start, min(window_end) as window_end,
    coalesce(max(free_nanoseconds), max(billed_nanoseconds), timestamp_diff(charge_period_end, charge_period_start, microsecond) * 1000) as billed_nanoseconds
  from skus
  group by match_method, target_key, resource_key, charge_period_start, charge_period_end
),
billed as (
  select
    match_method, target_key, resource_key, window_start, window_end, cast(sum(billed_nanoseconds) as int64) as billed_nanoseconds,
    timestamp_diff(window_end, window_start, microsecond) * 1000 as window_nanoseconds
  from charges
  group by match_method, target_key, resource_key, window_start, window_end
),
counted as (
  select
    match_method, target_key, resource_key, window_start, window_end, billed_nanoseconds, window_nanoseconds,
    greatest(1, div((billed_nanoseconds - div(window_nanoseconds, 100) + window_nanoseconds - 1), window_nanoseconds)) as machine_count
  from billed
),
sizes as (
  select
    match_method, target_key, resource_key,
    nullif(max(machine_gpus), 0) as machine_gpus, nullif(max(machine_cpus), 0) as machine_cpus, nullif(max(machine_memory_gb), 0) as machine_memory_gb
  from offered_lines
  where charge_category = 'Usage' and charge_class is null
  group by match_method, target_key, resource_key
)
select
  c.match_method, c.target_key, c.window_start, c.window_end, s.machine_gpus, s.machine_cpus, s.machine_memory_gb,
  cast(sum(c.machine_count) as int64) as machine_count,
  cast(sum(div(least(c.billed_nanoseconds, c.machine_count * c.window_nanoseconds), 1000)) as int64) as billed_microseconds
from counted c
join sizes s on s.match_method = c.match_method and s.target_key = c.target_key and s.resource_key = c.resource_key
group by c.match_method, c.target_key, c.window_start, c.window_end, s.machine_gpus, s.machine_cpus, s.machine_memory_gb
