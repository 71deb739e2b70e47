-- one row per pool or instance type and charge period with targets: the last block of stated machines that runs may get, if any
with targets as (
  select match_method, target_key, window_start, window_end, run_id, weight_kind, is_scaled from pool_targets
  union all
  select match_method, target_key, window_start, window_end, run_id, weight_kind, is_scaled from type_targets
),
windows as (
  select
    match_method, target_key, window_start, window_end,
    max(case when run_id is null then weight_kind end) as weight_kind, logical_or(run_id is null and is_scaled) as is_scaled
  from targets
  group by match_method, target_key, window_start, window_end
),
reached as (
  select match_method, target_key, window_start, window_end, max(block_number) as last_block
  from offered_blocks
  where is_reached
  group by match_method, target_key, window_start, window_end
)
select w.match_method, w.target_key, w.window_start, w.window_end, w.weight_kind, w.is_scaled, r.last_block
from windows w
left join reached r on r.match_method = w.match_method and r.target_key = w.target_key and r.window_start = w.window_start and r.window_end = w.window_end
