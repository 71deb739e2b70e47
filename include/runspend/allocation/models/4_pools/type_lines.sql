-- one row per line of an instance type that runs ask for in its charge period, except lines of stated machines:
-- the charge period whose targets get its cost.
select c.source, c.line_id, c.target_key, c.window_start, c.window_end
from timed_candidates c
join (select distinct target_key, window_start, window_end from type_targets) t
  on t.target_key = c.target_key and t.window_start = c.window_start and t.window_end = c.window_end
where c.match_method = 'instance_type_time'
