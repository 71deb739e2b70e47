-- The times at which metrics were logged, from the stream `raw_times`.
-- If a step was logged twice, before and after the run was stopped, both times count.
insert into fresh_times
select run_id, key, step, unnest(if(first_ms = last_ms, [first_ms], [first_ms, last_ms])) as logged_ms, $is_first_look as is_first_look
from raw_times
