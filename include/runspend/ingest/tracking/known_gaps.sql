-- The gaps found in earlier pipeline runs, for runs of one month whose end or last sign of activity is still the same.
-- From `previous_runs`.
insert into fresh_gaps
select r.run_id, p.gaps, p.gap_seconds
from fresh_runs r
join previous_runs p
  on p.workspace = r.workspace and p.run_id = r.run_id and coalesce(r.end_time, r.last_sign_at) in (p.end_time, p.future_end_time, p.last_sign_at)
where r.start_month = $month and r.step_keys <> '' and p.gap_seconds is not null
