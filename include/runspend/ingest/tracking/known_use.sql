-- The mean utilization found in an earlier pipeline run, for runs of one month that had ended and still have the same end.
-- From `previous_runs`.
insert into fresh_use
select r.run_id, p.mean_use_percent
from fresh_runs r
join previous_runs p on p.workspace = r.workspace and p.run_id = r.run_id and r.end_time in (p.end_time, p.future_end_time)
where r.start_month = $month and r.use_keys <> '' and p.mean_use_percent is not null
