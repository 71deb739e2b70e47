-- one row per principal, charge period of its lines and run that stated the principal then.
-- The run's share is by time, or by the list price of its traces if that is known for all runs.
-- Runs that state no principal have the part that `identity_offers` says, by the list price of their traces.
-- If no run states a principal in a charge period and its owner is known, the cost goes to the owner, not to a run.
with kinds as (
  -- One kind of weight for the whole charge period. Uses the largest rate, because a sum would depend on row order.
  select target_key, window_start, window_end, countif(rate is null) = 0 as by_tokens, max(rate) as largest
  from identity_claims
  group by target_key, window_start, window_end
),
weights as (
  select
    r.target_key, r.window_start, r.window_end, r.tracking_server, r.workspace, r.run_id, r.run_end_rule, k.by_tokens, r.is_estimated,
    case when k.by_tokens then cast(ceil(r.rate / k.largest * 1099511627776.0) as int64) else r.ticks end as weight
  from identity_claims r
  join kinds k on k.target_key = r.target_key and k.window_start = r.window_start and k.window_end = r.window_end
),
running as (
  select
    target_key, window_start, window_end, tracking_server, workspace, run_id, run_end_rule, by_tokens, is_estimated, weight,
    cast(sum(weight) over (w rows between unbounded preceding and current row) as int64) as upto,
    cast(sum(weight) over (partition by target_key, window_start, window_end) as int64) as total
  from weights
  window w as (partition by target_key, window_start, window_end order by tracking_server, workspace, run_id)
),
tokens as (
  select
    t.charge_date as day, nullif(t.run_id, '') as run_id, case when t.run_id <> '' then t.tracking_server end as tracking_server,
    case when t.run_id <> '' then t.workspace end as workspace, coalesce(t.price_source, 'mlflow') <> 'mlflow' as is_estimated, t.list_cost
  from trace_costs t
  left join (select distinct tracking_server, workspace, run_id from identity_uses) u
    on u.tracking_server = t.tracking_server and u.workspace = t.workspace and u.run_id = t.run_id
  where t.month = @period and t.list_cost > 0 and u.run_id is null
),
others as (
  select
    day, tracking_server, workspace, run_id, logical_or(is_estimated) as is_estimated, cast(cast(sum(list_cost) as string) as float64) as spent_float
  from tokens
  group by day, tracking_server, workspace, run_id
),
other_weights as (
  -- Whole numbers that sum to less than 2^52, each from one float product.
  select
    o.day, o.tracking_server, o.workspace, o.run_id, o.is_estimated, cast(ceil(o.spent_float / t.total_float * 2251799813685248.0) as int64) as weight
  from others o
  join (select day, cast(cast(sum(list_cost) as string) as float64) as total_float from tokens group by day) t on t.day = o.day
),
other_shares as (
  select
    day, tracking_server, workspace, run_id, is_estimated, weight,
    cast(sum(weight) over (w rows between unbounded preceding and current row) as int64) as upto,
    cast(sum(weight) over (partition by day) as int64) as total
  from other_weights
  window w as (partition by day order by case when run_id is null then 1 else 0 end, tracking_server, workspace, run_id)
)
select
  'llm_identity' as match_method, r.target_key, r.window_start, r.window_end, 'run' as allocated_to, r.tracking_server, r.workspace, r.run_id,
  cast(null as string) as owner_id, case when o.target_key is not null then 'other_callers' end as reason,
  case when not r.by_tokens then 'equal' when r.is_estimated then 'estimated_list_cost' else 'list_cost' end as weight_kind,
  r.run_end_rule, false as is_scaled, cast(null as int64) as nanoseconds,
  (r.upto - r.weight) / r.total * (1.0 - coalesce(o.offered, 0.0)) as ratio_from, r.upto / r.total * (1.0 - coalesce(o.offered, 0.0)) as ratio_to,
  r.upto = r.total and coalesce(o.offered, 0.0) = 0.0 as is_last
from running r
left join identity_offers o on o.target_key = r.target_key and o.window_start = r.window_start and o.window_end = r.window_end
union all
select
  'llm_identity', o.target_key, o.window_start, o.window_end, case when s.run_id is null then 'rest' else 'run' end, s.tracking_server, s.workspace, s.run_id,
  cast(null as string), case when s.run_id is null then 'no_source_run' else 'other_callers' end,
  case when s.is_estimated then 'estimated_list_cost' else 'list_cost' end, cast(null as string), false, cast(null as int64),
  1.0 - o.offered + (s.upto - s.weight) / s.total * o.offered, case when s.upto = s.total then 1.0 else 1.0 - o.offered + s.upto / s.total * o.offered end,
  s.upto = s.total
from identity_offers o
join other_shares s on s.day = date(o.window_start)
where o.offered > 0
union all
select
  'llm_identity', w.target_key, w.window_start, w.window_end, 'rest', cast(null as string), cast(null as string), cast(null as string),
  cast(null as string), 'no_run', cast(null as string), cast(null as string), false, cast(null as int64), 0.0, 1.0, true
from (select distinct target_key, window_start, window_end from identity_candidates where has_owner) w
left join (select distinct target_key, window_start, window_end from identity_claims) c
  on c.target_key = w.target_key and c.window_start = w.window_start and c.window_end = w.window_end
where c.target_key is null
