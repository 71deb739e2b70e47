-- one row per line attached to machines that runs or jobs state in its charge period, by the closest key that has such machines.
-- Lines that no other rule may allocate are in later_lines.
with windows as (
  select target_key, window_start, window_end from attached_windows
  union distinct
  select target_key, window_start, window_end from tail_windows
)
select c.source, c.line_id, c.target_key, c.window_start, c.window_end
from attached_candidates c
join windows w on w.target_key = c.target_key and w.window_start = c.window_start and w.window_end = c.window_end
where not c.is_late
qualify row_number() over (partition by c.source, c.line_id order by c.distance, c.target_key) = 1
