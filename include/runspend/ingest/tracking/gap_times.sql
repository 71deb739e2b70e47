-- The times at which metrics were logged, from the stream `raw_times`.
-- If a step was logged several times, its first and its last time count: a resumed run may log a step again.
insert into fresh_times
select run_id, key, step, unnest(if(first_ms = last_ms, [first_ms], [first_ms, last_ms])) as logged_ms, $is_first_look as is_first_look
from raw_times
