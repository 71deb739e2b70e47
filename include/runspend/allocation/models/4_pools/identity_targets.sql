-- one row per principal, charge period of its lines and run that stated the principal at that time.
-- The run's share is by the list price of its traces, or by time if no run has traces then.
-- If no run states a principal in a charge period but its owner is known, the owner gets the cost, not a run.
with windows as (
  select target_key, window_start, window_end, min(llm_cloud) as llm_cloud, max(has_owner) as has_owner
  from (select target_key, window_start, window_end, llm_cloud, case when has_owner then 1 else 0 end as has_owner from identity_candidates)
  group by target_key, window_start, window_end
),
names as (
  -- Equal names come first. Otherwise, runs that state only the role; or all sessions of the role, if the line names only the role.
  select n.target_key, u.principal_key, case when u.principal_key = n.target_key then 1 else 2 end as place
  from (select distinct target_key, regexp_extract(target_key, r'^[^/]+/[^/]+') as role_key from windows) n
  join (select distinct principal_key, regexp_extract(principal_key, r'^[^/]+/[^/]+') as role_key from identity_uses) u on u.role_key = n.role_key
  where u.principal_key = n.target_key or u.principal_key = u.role_key or n.target_key = n.role_key
),
window_days as (
  -- Charge periods are cut at midnight, so that they can be joined with runs by day.
  -- Otherwise, every charge period of a principal would be compared with every run.
  select
    w.target_key, w.window_start, w.window_end, w.llm_cloud, day,
    greatest(w.window_start, timestamp(day)) as piece_start, least(w.window_end, timestamp(date_add(day, interval 1 day))) as piece_end
  from windows w
  cross join unnest(generate_date_array(date(w.window_start), date(timestamp_sub(w.window_end, interval 1 microsecond)))) as day
),
use_days as (
  select
    u.principal_key, u.tracking_server, u.workspace, u.run_id, u.run_end_rule, u.is_own, u.is_calling, day,
    greatest(u.interval_start, timestamp(day)) as piece_start, least(u.interval_end, timestamp(date_add(day, interval 1 day))) as piece_end
  from identity_uses u
  cross join unnest(generate_date_array(date(u.interval_start), date(timestamp_sub(u.interval_end, interval 1 microsecond)))) as day
),
claims as (
  select
    w.target_key, w.window_start, w.window_end, w.llm_cloud, u.tracking_server, u.workspace, u.run_id, n.place, min(u.run_end_rule) as run_end_rule,
    cast(sum(case when u.is_own then timestamp_diff(least(u.piece_end, w.piece_end), greatest(u.piece_start, w.piece_start), microsecond) else 0 end) as int64) as ticks,
    cast(sum(case when u.is_calling then timestamp_diff(least(u.piece_end, w.piece_end), greatest(u.piece_start, w.piece_start), microsecond) else 0 end) as int64)
      as calling_ticks
  from window_days w
  join names n on n.target_key = w.target_key
  join use_days u on u.principal_key = n.principal_key and u.day = w.day and u.piece_start < w.piece_end and u.piece_end > w.piece_start
  group by w.target_key, w.window_start, w.window_end, w.llm_cloud, u.tracking_server, u.workspace, u.run_id, n.place
),
days as (
  select window_start, window_end, llm_cloud, day
  from (select distinct window_start, window_end, llm_cloud from claims)
  cross join unnest(generate_date_array(date(window_start), date(timestamp_sub(window_end, interval 1 microsecond)))) as day
),
spent as (
  -- The list price of a run's traces on the days of a charge period.
  select
    d.window_start, d.window_end, d.llm_cloud, t.tracking_server, t.workspace, t.run_id, cast(cast(sum(t.list_cost) as string) as float64) as spent_float,
    logical_or(t.is_estimated) as is_estimated
  from days d
  join llm_tokens t on t.day = d.day and t.llm_cloud = d.llm_cloud
  where t.run_id is not null
  group by d.window_start, d.window_end, d.llm_cloud, t.tracking_server, t.workspace, t.run_id
),
day_times as (
  -- The time in which a run with such traces was active as its principal on those days. Traces have a day, but no hour.
  select
    s.window_start, s.window_end, s.llm_cloud, s.tracking_server, s.workspace, s.run_id,
    cast(sum(timestamp_diff(u.piece_end, u.piece_start, microsecond)) as int64) as day_ticks
  from spent s
  join days d on d.window_start = s.window_start and d.window_end = s.window_end and d.llm_cloud = s.llm_cloud
  join use_days u on u.tracking_server = s.tracking_server and u.workspace = s.workspace and u.run_id = s.run_id and u.day = d.day and u.is_calling
  group by s.window_start, s.window_end, s.llm_cloud, s.tracking_server, s.workspace, s.run_id
),
tracing as (
  select distinct tracking_server, workspace, run_id
  from trace_costs
  where month >= date(@window_start) and month < date(@window_end) and list_cost > 0 and run_id <> ''
),
rates as (
  -- If children cover all of a parent's time, the parent called models only if its traces show it.
  select
    c.target_key, c.window_start, c.window_end, c.tracking_server, c.workspace, c.run_id, c.run_end_rule, c.place, c.ticks,
    case when c.calling_ticks > 0 then s.spent_float * (c.calling_ticks / d.day_ticks) end as rate, coalesce(s.is_estimated, false) as is_estimated,
    g.run_id is not null as is_tracing
  from claims c
  left join spent s
    on s.window_start = c.window_start and s.window_end = c.window_end and s.llm_cloud = c.llm_cloud
    and s.tracking_server = c.tracking_server and s.workspace = c.workspace and s.run_id = c.run_id
  left join day_times d
    on d.window_start = c.window_start and d.window_end = c.window_end and d.llm_cloud = c.llm_cloud
    and d.tracking_server = c.tracking_server and d.workspace = c.workspace and d.run_id = c.run_id
  left join tracing g on g.tracking_server = c.tracking_server and g.workspace = c.workspace and g.run_id = c.run_id
),
closest as (
  select target_key, window_start, window_end, tracking_server, workspace, run_id, run_end_rule, ticks, rate, is_estimated, is_tracing
  from rates
  where ticks > 0 or rate is not null
  qualify place = min(place) over (partition by target_key, window_start, window_end)
),
kinds as (
  -- One kind of weight for the whole charge period. The largest rate is used, because a sum would depend on the order of rows.
  select
    target_key, window_start, window_end, max(rate) as largest,
    case
      when countif(rate is null) = 0 or count(*) = 1 then cast(null as string)
      when countif(rate is not null) = 0 or countif(not is_tracing) > 0 then 'untraced_caller'
      else 'silent_caller'
    end as reason
  from closest
  group by target_key, window_start, window_end
),
weights as (
  select
    r.target_key, r.window_start, r.window_end, r.tracking_server, r.workspace, r.run_id, r.run_end_rule, k.largest is not null as by_tokens, k.reason, r.is_estimated,
    case when k.largest is not null then cast(ceil(r.rate / k.largest * 1099511627776.0) as int64) else r.ticks end as weight
  from closest r
  join kinds k on k.target_key = r.target_key and k.window_start = r.window_start and k.window_end = r.window_end
  -- If another run has traces, a run without traces made no calls.
  where k.largest is null or r.rate is not null
),
running as (
  select
    target_key, window_start, window_end, tracking_server, workspace, run_id, run_end_rule, by_tokens, reason, is_estimated, weight,
    cast(sum(weight) over (w rows between unbounded preceding and current row) as int64) as upto,
    cast(sum(weight) over (partition by target_key, window_start, window_end) as int64) as total
  from weights
  window w as (partition by target_key, window_start, window_end order by tracking_server, workspace, run_id)
)
select
  'llm_identity' as match_method, target_key, window_start, window_end, 'run' as allocated_to, tracking_server, workspace, run_id,
  cast(null as string) as owner_id, reason,
  case when not by_tokens then 'equal' when is_estimated then 'estimated_list_cost' else 'list_cost' end as weight_kind,
  run_end_rule, false as is_scaled, cast(null as int64) as nanoseconds, (upto - weight) / total as ratio_from, upto / total as ratio_to, upto = total as is_last
from running
union all
select
  'llm_identity', w.target_key, w.window_start, w.window_end, 'rest', cast(null as string), cast(null as string), cast(null as string),
  cast(null as string), 'no_run', cast(null as string), cast(null as string), false, cast(null as int64), 0.0, 1.0, true
from windows w
left join (select distinct target_key, window_start, window_end from closest) c
  on c.target_key = w.target_key and c.window_start = w.window_start and c.window_end = w.window_end
where w.has_owner = 1 and c.target_key is null
