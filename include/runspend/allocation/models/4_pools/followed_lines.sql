-- one row per line of a stated machine to which other lines may be attached, in a charge period in which runs of a pool or an instance type may
-- use the rest of the machine: the weight of the line among the machine's lines of that charge period, in units of 2^-51
with known as (
  select distinct resource_key from attached_parts where resource_key is not null
),
lines as (
  select
    o.match_method, o.target_key, o.resource_key, o.charge_period_start, o.charge_period_end, o.source, o.line_id,
    greatest(coalesce(o.effective_cost, bignumeric '0'), bignumeric '0') as effective_cost
  from offered_lines o
  join known k on k.resource_key = o.resource_key
  join offered_windows w on w.match_method = o.match_method and w.target_key = o.target_key and w.window_start = o.window_start and w.window_end = o.window_end
  where o.cost_kind = 'compute' and o.charge_category = 'Usage' and o.charge_class is null
),
ruled as (
  -- A license may be outside the pool of its machine.
  select resource_key, charge_period_start, charge_period_end, max(match_method) as match_method
  from lines
  group by resource_key, charge_period_start, charge_period_end
),
weighed as (
  select
    l.match_method, l.target_key, l.resource_key, l.charge_period_start, l.charge_period_end, l.source, l.line_id,
    cast(cast(l.effective_cost as string) as float64) as cost, cast(cast(sum(l.effective_cost) over w as string) as float64) as total, count(*) over w as line_count
  from lines l
  join ruled r
    on r.resource_key = l.resource_key and r.charge_period_start = l.charge_period_start and r.charge_period_end = l.charge_period_end and r.match_method = l.match_method
  window w as (partition by l.resource_key, l.charge_period_start, l.charge_period_end)
)
select
  match_method, target_key, resource_key, charge_period_start, charge_period_end, source, line_id,
  cast(round(case when total > 0 then cost / total else 1.0 / line_count end * 2251799813685248.0) as int64) as weight
from weighed
