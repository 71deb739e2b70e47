-- one row per line of a language model whose caller is stated by a run or has an owner: the charge period whose targets get its cost
select c.source, c.line_id, c.target_key, c.window_start, c.window_end
from identity_candidates c
join (select distinct target_key, window_start, window_end, allocated_to = 'run' as has_runs from identity_targets) t
  on t.target_key = c.target_key and t.window_start = c.window_start and t.window_end = c.window_end
where t.has_runs or c.has_owner
