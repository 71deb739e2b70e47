-- one row per machine that no run states and to which other lines may be attached, and charge period in which it belongs to a pool or to an
-- instance type that runs ask for: its billed time, and whether runs may use it. As in pool_machines, a correction for a machine in an
-- earlier month proves that it ran.
with lines as (
  select
    c.match_method, c.target_key, c.window_start, c.window_end, c.resource_key, c.charge_period_start, c.charge_period_end, c.source,
    coalesce(c.sku_id, '') as sku_id, case when c.charge_class is null then c.billed_nanoseconds end as billed_nanoseconds, l.line_id is not null as is_reached
  from timed_candidates c
  join (select distinct resource_key from attach_keys) a on a.resource_key = c.resource_key
  left join (
    select source, line_id from pool_lines
    union all
    select source, line_id from type_lines
  ) l on l.source = c.source and l.line_id = c.line_id
  where (l.line_id is not null or c.match_method = 'instance_type_time')
    and c.cost_kind = 'compute' and c.charge_category = 'Usage' and (c.charge_class is null or c.charge_period_end <= timestamp(@period))
),
skus as (
  -- As in machine_slots. A license may be outside the pool of its machine.
  select
    resource_key, charge_period_start, charge_period_end, match_method, target_key, window_start, window_end, source, sku_id, is_reached,
    nullif(greatest(sum(billed_nanoseconds), 0), 0) as nanoseconds
  from lines
  group by resource_key, charge_period_start, charge_period_end, match_method, target_key, window_start, window_end, source, sku_id, is_reached
),
longest as (
  select
    match_method, target_key, window_start, window_end, resource_key, charge_period_start, charge_period_end, is_reached, nanoseconds
  from skus
  qualify row_number() over (
    partition by resource_key, charge_period_start, charge_period_end
    order by is_reached desc, match_method desc, nanoseconds desc, target_key, source, sku_id) = 1
)
select
  l.match_method, l.target_key, l.window_start, l.window_end, l.resource_key, l.charge_period_start, l.charge_period_end, l.is_reached,
  cast(coalesce(l.nanoseconds, e.billed_nanoseconds, timestamp_diff(l.charge_period_end, l.charge_period_start, microsecond) * 1000) as int64) as nanoseconds
from longest l
left join earlier_times e
  on e.resource_key = l.resource_key and e.charge_period_start = l.charge_period_start and e.charge_period_end = l.charge_period_end
