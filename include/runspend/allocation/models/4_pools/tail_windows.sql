-- one row per key of a job's machine, and charge period of lines attached by it outside the job's own charge periods.
-- Such lines go to the runs in that life of the job
select distinct w.target_key, w.window_start, w.window_end
from (select distinct target_key, window_start, window_end from attached_candidates) w
left join (select distinct target_key, window_start, window_end from attached_windows) m
  on m.target_key = w.target_key and m.window_start = w.window_start and m.window_end = w.window_end
join job_tails t on t.target_key = w.target_key
where m.target_key is null
  and t.billed_from < timestamp_add(w.window_end, interval 24 hour) and t.billed_until > timestamp_sub(w.window_start, interval 24 hour)
