-- One row per machine that a run states: its first and last time on the bill, and its bill lines during the run.
select
  resource_key, min(charge_period_start) as first_at, max(charge_period_end) as last_at,
  countif(charge_period_start < @ends_at and charge_period_end > @starts_at) as lines_then,
  countif(charge_period_start < @ends_at and charge_period_end > @starts_at and scope = 'exclude') as excluded_then,
  min(resource_id) as resource_id
from billing_lines
where resource_key in unnest(@keys)
group by resource_key
order by resource_key
