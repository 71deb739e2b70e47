-- one row per line that a rule which prices lines together allocates, except lines of stated machines: the first rule with a target for the line
with found as (
  select 1 as priority, 'attached' as match_method, source, line_id, target_key, window_start, window_end from attached_lines
  union all
  select 2, 'artifact_bytes', source, line_id, target_key, window_start, window_end from storage_lines
  union all
  select 3, 'llm_identity', source, line_id, target_key, window_start, window_end from identity_lines
  union all
  select 4, 'llm_cost', source, line_id, target_key, window_start, window_end from llm_lines
  union all
  select 6, 'pool_time', source, line_id, target_key, window_start, window_end from pool_lines
  union all
  select 7, 'instance_type_time', source, line_id, target_key, window_start, window_end from type_lines
  union all
  -- If a disk in a pool names a machine outside the pool, its cost follows that machine.
  select case when distance = 0 then 5 else 8 end, 'attached', source, line_id, target_key, window_start, window_end from later_lines
)
select match_method, source, line_id, target_key, window_start, window_end
from found
qualify row_number() over (partition by source, line_id order by priority) = 1
