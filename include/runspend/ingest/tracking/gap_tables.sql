-- `fresh_gaps`: the gaps of each run that was checked in this pipeline run or an earlier one. `fresh_times`: when runs logged metrics.
create table fresh_gaps (run_id varchar, gaps varchar[], gap_seconds double);
create table fresh_times (run_id varchar, key varchar, step bigint, logged_ms bigint, is_first_look boolean);
-- The times between start and end of a run. Points logged before or after do not show whether the run was active.
create view times_in_run as
select t.*
from fresh_times t
join fresh_runs r using (run_id)
where t.logged_ms between epoch_ms(r.start_time) and epoch_ms(coalesce(r.end_time, r.last_sign_at));
-- The usual distance between a run's points: nine of ten distances are not longer. Runs with fewer than ten points are left out.
create view usual_spacings as
with spacings as (
  select run_id, logged_ms - lag(logged_ms) over (partition by run_id order by logged_ms) as spacing
  from (select distinct run_id, logged_ms from times_in_run where is_first_look)
),
ranked as (
  select run_id, spacing, row_number() over (partition by run_id order by spacing) as place, count(*) over (partition by run_id) as spacings
  from spacings
  where spacing is not null
)
select run_id, spacing as usual_ms from ranked where spacings >= 9 and place = 9 * spacings // 10;
