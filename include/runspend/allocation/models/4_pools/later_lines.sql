-- one row per line that no other rule allocates and that is attached to machines which no run states, by the closest key with a machine
-- that runs of a pool or an instance type may have in its charge period
with settled as (
  select source, line_id from attached_lines
  union distinct
  select source, line_id from storage_lines
  union distinct
  select source, line_id from identity_lines
  union distinct
  select source, line_id from llm_lines
)
select c.source, c.line_id, c.target_key, c.window_start, c.window_end
from attached_candidates c
join (select distinct target_key, window_start, window_end from later_windows) w
  on w.target_key = c.target_key and w.window_start = c.window_start and w.window_end = c.window_end
left join settled s on s.source = c.source and s.line_id = c.line_id
where s.line_id is null and not c.is_of_pool_or_machine
qualify row_number() over (partition by c.source, c.line_id order by c.distance, c.target_key) = 1
