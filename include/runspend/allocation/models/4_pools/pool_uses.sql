-- one row per pool, charge period, run and hour in which the run asked for machines of the pool
with window_hours as (
  select w.pool_number, w.window_start, w.window_end, hour_number
  from pool_windows w
  cross join unnest(hours_between(w.window_start, w.window_end)) as hour_number
),
claim_hours as (
  -- Charge periods and runs are joined by pool and hour. By pool only, every charge period would be compared with every run.
  select
    c.pool_number, c.run_number, c.claim_number, c.is_family, c.run_end_rule, c.weight_kind, c.weight, c.nodes, c.interval_start, c.interval_end, hour_number
  from pool_claims c
  cross join unnest(hours_between(c.interval_start, c.interval_end)) as hour_number
)
select
  w.pool_number, w.window_start, w.window_end, c.run_number, c.claim_number, c.is_family, c.run_end_rule, c.weight_kind, c.weight, c.nodes,
  greatest(c.interval_start, w.window_start, start_of_hour(c.hour_number)) as used_from,
  least(c.interval_end, w.window_end, start_of_hour(c.hour_number + 1)) as used_to
from window_hours w
join claim_hours c on c.pool_number = w.pool_number and c.hour_number = w.hour_number
where greatest(c.interval_start, w.window_start) < least(c.interval_end, w.window_end)
  and c.interval_start < w.window_end and c.interval_end > w.window_start
