-- One row per machine that a run states: its first and last time on the bill, and the number of its bill lines during the run.
-- If pods share the machine, the bill lines of its pods count too; `pod_lines_then` is their number.
with lines as (
  select
    case when resource_key in unnest(@keys) then resource_key else node_key end as machine_key,
    coalesce(resource_key in unnest(@keys), false) as is_own,
    charge_period_start < @ends_at and charge_period_end > @starts_at as is_during,
    charge_period_start, charge_period_end, scope, resource_id, source
  from billing_lines
  where resource_key in unnest(@keys) or node_key in unnest(@keys)
)
select
  machine_key as resource_key, min(charge_period_start) as first_at, max(charge_period_end) as last_at,
  countif(is_during) as lines_then, countif(is_during and scope = 'exclude') as excluded_then, countif(is_during and not is_own) as pod_lines_then,
  min(resource_id) as resource_id, min(source) as source
from lines
group by machine_key
order by machine_key
