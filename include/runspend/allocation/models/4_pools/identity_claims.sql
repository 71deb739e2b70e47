-- one row per principal, charge period of its lines and run that stated the principal then: how long it ran as that principal,
-- and the list price of its traces in that time, if known
with windows as (
  select distinct target_key, window_start, window_end
  from identity_candidates
),
names as (
  -- Equal names first. Otherwise the role alone, if no run states the session of the line; any session, if the line states only a role.
  select n.target_key, u.principal_key, case when u.principal_key = n.target_key then 1 else 2 end as place
  from (select distinct target_key, regexp_extract(target_key, r'^[^/]+/[^/]+') as role_key from windows) n
  join (select distinct principal_key, regexp_extract(principal_key, r'^[^/]+/[^/]+') as role_key from identity_uses) u on u.role_key = n.role_key
  where u.principal_key = n.target_key or u.principal_key = u.role_key or n.target_key = n.role_key
),
window_days as (
  -- Cut at midnight, so that the join of charge periods and runs is by day.
  -- Without it, every period of a principal would meet every run.
  select
    w.target_key, w.window_start, w.window_end, day,
    greatest(w.window_start, timestamp(day)) as piece_start, least(w.window_end, timestamp(date_add(day, interval 1 day))) as piece_end
  from windows w
  cross join unnest(generate_date_array(date(w.window_start), date(timestamp_sub(w.window_end, interval 1 microsecond)))) as day
),
use_days as (
  select
    u.principal_key, u.tracking_server, u.workspace, u.run_id, u.run_end_rule, day,
    greatest(u.interval_start, timestamp(day)) as piece_start, least(u.interval_end, timestamp(date_add(day, interval 1 day))) as piece_end
  from identity_uses u
  cross join unnest(generate_date_array(date(u.interval_start), date(timestamp_sub(u.interval_end, interval 1 microsecond)))) as day
),
claims as (
  select
    w.target_key, w.window_start, w.window_end, u.tracking_server, u.workspace, u.run_id, n.place, min(u.run_end_rule) as run_end_rule,
    cast(sum(timestamp_diff(least(u.piece_end, w.piece_end), greatest(u.piece_start, w.piece_start), microsecond)) as int64) as ticks
  from window_days w
  join names n on n.target_key = w.target_key
  join use_days u on u.principal_key = n.principal_key and u.day = w.day and u.piece_start < w.piece_end and u.piece_end > w.piece_start
  group by w.target_key, w.window_start, w.window_end, u.tracking_server, u.workspace, u.run_id, n.place
),
closest as (
  select target_key, window_start, window_end, tracking_server, workspace, run_id, run_end_rule, ticks
  from claims
  qualify place = min(place) over (partition by target_key, window_start, window_end)
),
days as (
  select window_start, window_end, day
  from (select distinct window_start, window_end from closest)
  cross join unnest(generate_date_array(date(window_start), date(timestamp_sub(window_end, interval 1 microsecond)))) as day
),
spent as (
  -- The list price of a run's traces on the days of a charge period.
  select d.window_start, d.window_end, t.tracking_server, t.workspace, t.run_id, cast(cast(sum(t.list_cost) as string) as float64) as spent_float,
    logical_or(coalesce(t.price_source, 'mlflow') <> 'mlflow') as is_estimated
  from days d
  join trace_costs t on t.charge_date = d.day and t.month = @period
  where t.list_cost > 0 and t.run_id <> ''
  group by d.window_start, d.window_end, t.tracking_server, t.workspace, t.run_id
),
day_times as (
  -- How long a run with such traces was active as its principal on those days. Traces have no hour.
  select s.window_start, s.window_end, s.tracking_server, s.workspace, s.run_id, cast(sum(timestamp_diff(u.piece_end, u.piece_start, microsecond)) as int64) as day_ticks
  from spent s
  join days d on d.window_start = s.window_start and d.window_end = s.window_end
  join use_days u on u.tracking_server = s.tracking_server and u.workspace = s.workspace and u.run_id = s.run_id and u.day = d.day
  group by s.window_start, s.window_end, s.tracking_server, s.workspace, s.run_id
)
select
  c.target_key, c.window_start, c.window_end, c.tracking_server, c.workspace, c.run_id, c.run_end_rule, c.ticks,
  s.spent_float * (c.ticks / d.day_ticks) as rate, coalesce(s.is_estimated, false) as is_estimated
from closest c
left join spent s
  on s.window_start = c.window_start and s.window_end = c.window_end
  and s.tracking_server = c.tracking_server and s.workspace = c.workspace and s.run_id = c.run_id
left join day_times d
  on d.window_start = c.window_start and d.window_end = c.window_end
  and d.tracking_server = c.tracking_server and d.workspace = c.workspace and d.run_id = c.run_id
