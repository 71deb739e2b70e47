-- one row per storage line of a bucket and class with known bytes: the month whose targets get its cost
select l.source, l.line_id, c.target_key, c.window_start, c.window_end
from rest_lines l
join storage_candidates c on c.storage_key = l.storage_key and coalesce(c.storage_class, '') = coalesce(l.storage_class, '')
join (select distinct target_key from storage_targets) t on t.target_key = c.target_key
where l.line_kind <> 'fee' and coalesce(l.scope, '') <> 'exclude'
