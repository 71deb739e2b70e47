-- one row per machine that other lines may be attached to, and charge period in which runs of a pool or an instance type may have it: the line
-- that says how they share it. `is_known`: runs state the machine, and the line is what they leave of it.
with known as (
  select distinct resource_key from attached_parts where resource_key is not null
),
lines as (
  select
    o.match_method, o.target_key, o.resource_key, o.charge_period_start, o.charge_period_end, o.source, o.line_id, o.effective_cost, o.cost_kind, o.charge_category,
    o.billed_nanoseconds, true as is_known
  from offered_lines o
  join known k on k.resource_key = o.resource_key
  join offered_windows w on w.match_method = o.match_method and w.target_key = o.target_key and w.window_start = o.window_start and w.window_end = o.window_end
  union all
  select
    c.match_method, c.target_key, c.resource_key, c.charge_period_start, c.charge_period_end, c.source, c.line_id, c.effective_cost, c.cost_kind, c.charge_category,
    c.billed_nanoseconds, false
  from timed_candidates c
  join (select distinct resource_key from attach_keys) a on a.resource_key = c.resource_key
  join (
    select source, line_id from pool_lines
    union all
    select source, line_id from type_lines
  ) l on l.source = c.source and l.line_id = c.line_id
)
select
  match_method, target_key, resource_key, charge_period_start, charge_period_end, source, line_id, is_known,
  -- The machine's time in the charge period, which several lines may bill.
  least(
    coalesce(cast(sum(billed_nanoseconds) over w as int64), timestamp_diff(charge_period_end, charge_period_start, microsecond) * 1000),
    timestamp_diff(charge_period_end, charge_period_start, microsecond) * 1000) as nanoseconds
from lines
where cost_kind = 'compute' and charge_category = 'Usage'
qualify row_number() over (partition by resource_key, charge_period_start, charge_period_end order by effective_cost desc, source, line_id) = 1
window w as (partition by resource_key, charge_period_start, charge_period_end)
