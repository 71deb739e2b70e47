-- one row per pool, run and hour: the run's time on the rest of the pool's machines that are billed for more than an hour, by its claim.
-- Only for pools whose disks, addresses or traffic need such a split.
with days as (
  -- The rest of the machines that are billed for more than an hour, as it is split between claims.
  select
    p.target_key, n.pool_number, p.window_start, p.window_end, p.tracking_server, p.workspace, p.run_id, p.run_end_rule, p.weight_kind,
    (p.ratio_to - p.ratio_from) * (w.billed_microseconds * 1000.0) as nanoseconds
  from pool_targets p
  join pools_with_other_charges u on u.target_key = p.target_key
  join pools n on n.match_method = 'pool_time' and n.target_key = p.target_key
  join pool_windows w on w.pool_number = n.pool_number and w.window_start = p.window_start and w.window_end = p.window_end
  where w.billed_microseconds > 0 and p.allocated_to = 'run' and p.window_end > timestamp_add(timestamp_trunc(p.window_start, hour), interval 1 hour)
),
day_hours as (
  select
    d.target_key, d.window_start, d.window_end, d.tracking_server, d.workspace, d.run_id, d.run_end_rule, d.weight_kind, d.nanoseconds,
    timestamp_trunc(u.used_from, hour) as hour_start, sum(u.weight * timestamp_diff(u.used_to, u.used_from, microsecond)) as part
  from days d
  join (select distinct pool_number, run_number, tracking_server, workspace, run_id from pool_claims) c
    on c.pool_number = d.pool_number and c.tracking_server = d.tracking_server and c.workspace = d.workspace and c.run_id = d.run_id
  join pool_uses u
    on u.pool_number = c.pool_number and u.run_number = c.run_number and u.window_start = d.window_start and u.window_end = d.window_end
  group by d.target_key, d.window_start, d.window_end, d.tracking_server, d.workspace, d.run_id, d.run_end_rule, d.weight_kind, d.nanoseconds, hour_start
),
day_parts as (
  select
    target_key, tracking_server, workspace, run_id, run_end_rule, weight_kind, nanoseconds, hour_start, part,
    sum(part) over (partition by target_key, window_start, window_end, tracking_server, workspace, run_id) as parts
  from day_hours
)
select
  target_key, tracking_server, workspace, run_id, run_end_rule, weight_kind, hour_start, cast(round(nanoseconds * (part / parts)) as int64) as nanoseconds
from day_parts
