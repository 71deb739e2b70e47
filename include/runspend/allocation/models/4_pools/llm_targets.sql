-- one row per charge period of LLM lines of one cloud and run whose traces used paid tokens at that time: the run's share of the list price of
-- all traces on these days. Tokens that runs already paid as callers (`llm_identity`) do not count.
with days as (
  select w.target_key, w.window_start, w.window_end, w.llm_cloud, day
  from (select distinct target_key, window_start, window_end, llm_cloud from llm_candidates) w
  cross join unnest(generate_date_array(date(w.window_start), date(timestamp_sub(w.window_end, interval 1 microsecond)))) as day
),
unpaid as (
  -- Tokens that a run already paid as the caller of a line do not count again. If their price is unknown, the run paid all its tokens of that day.
  select
    t.day, t.llm_cloud, t.is_estimated, t.tracking_server, t.workspace, t.run_id,
    case when p.run_id is null then t.list_cost else t.list_cost - p.list_cost end as list_cost,
    t.list_cost as full_cost
  from llm_tokens t
  left join identity_paid p
    on p.tracking_server = t.tracking_server and p.workspace = t.workspace and p.run_id = t.run_id and p.day = t.day and p.llm_cloud = t.llm_cloud
),
weighing as (
  -- A remainder of a billionth is only rounding.
  select day, llm_cloud, is_estimated, tracking_server, workspace, run_id, list_cost
  from unpaid
  where cast(cast(list_cost as string) as float64) > cast(cast(full_cost as string) as float64) * 0.000000001
),
spent as (
  select
    d.target_key, d.window_start, d.window_end, t.tracking_server, t.workspace, t.run_id, logical_or(t.is_estimated) as is_estimated,
    cast(cast(sum(t.list_cost) as string) as float64) as spent_float
  from days d
  join weighing t on t.day = d.day and t.llm_cloud = d.llm_cloud
  group by d.target_key, d.window_start, d.window_end, t.tracking_server, t.workspace, t.run_id
),
totals as (
  select d.target_key, d.window_start, d.window_end, cast(cast(sum(t.list_cost) as string) as float64) as total_float
  from days d
  join weighing t on t.day = d.day and t.llm_cloud = d.llm_cloud
  group by d.target_key, d.window_start, d.window_end
),
weights as (
  -- Whole numbers whose sum is below 2^52, each from one float product.
  select
    s.target_key, s.window_start, s.window_end, s.tracking_server, s.workspace, s.run_id, s.is_estimated,
    cast(ceil(s.spent_float / t.total_float * 2251799813685248.0) as int64) as weight
  from spent s
  join totals t on t.target_key = s.target_key and t.window_start = s.window_start and t.window_end = s.window_end
),
running as (
  select
    target_key, window_start, window_end, tracking_server, workspace, run_id, is_estimated, weight,
    cast(sum(weight) over (w rows between unbounded preceding and current row) as int64) as upto,
    cast(sum(weight) over (partition by target_key, window_start, window_end) as int64) as total
  from weights
  window w as (
    partition by target_key, window_start, window_end
    order by case when run_id is null then 1 else 0 end, tracking_server, workspace, run_id)
)
select
  'llm_cost' as match_method, target_key, window_start, window_end,
  case when run_id is null then 'rest' else 'run' end as allocated_to, tracking_server, workspace, run_id, cast(null as string) as owner_id,
  case when run_id is null then 'no_source_run' end as reason,
  case when is_estimated then 'estimated_list_cost' else 'list_cost' end as weight_kind, cast(null as string) as run_end_rule, false as is_scaled, cast(null as int64) as nanoseconds,
  (upto - weight) / total as ratio_from, upto / total as ratio_to, upto = total as is_last
from running
