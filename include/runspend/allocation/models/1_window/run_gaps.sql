-- one row per run and time range in which it was stopped, as `runs.gaps` lists them.
select
  tracking_server, workspace, run_id,
  cast(regexp_extract(gap, r'^[^/]+') as timestamp) as gap_start,
  cast(regexp_extract(gap, r'[^/]+$') as timestamp) as gap_end
from runs
cross join unnest(gaps) as gap
where gap_seconds > 0
