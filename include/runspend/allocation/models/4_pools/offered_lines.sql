-- one row per line (or rest of one) of a stated machine in a charge period with targets of a pool or an instance type:
-- whether a run may get a part
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
select
  c.match_method, c.target_key, c.window_start, c.window_end, w.weight_kind, w.is_scaled, c.source, c.line_id, c.resource_key,
  coalesce(m.block_number <= r.last_block, false) as is_reached
from timed_candidates c
join windows w on w.match_method = c.match_method and w.target_key = c.target_key and w.window_start = c.window_start and w.window_end = c.window_end
join offered_machines m on m.match_method = c.match_method and m.target_key = c.target_key and m.resource_key = c.resource_key
left join reached r on r.match_method = c.match_method and r.target_key = c.target_key and r.window_start = c.window_start and r.window_end = c.window_end
where c.known_by is not null
