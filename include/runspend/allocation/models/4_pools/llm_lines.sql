-- one row per line of an LLM provider on whose days traces used paid tokens: the charge period whose targets get its cost
select c.source, c.line_id, c.target_key, c.window_start, c.window_end
from llm_candidates c
join (select distinct target_key, window_start, window_end from llm_targets) t
  on t.target_key = c.target_key and t.window_start = c.window_start and t.window_end = c.window_end
