-- The gaps of each checked run. A gap is a time without any logged point that is longer than $long_ms, and longer than ten times the
-- usual distance between the run's points.
insert into fresh_gaps
with spaced as (
  select run_id, lag(logged_ms) over (partition by run_id order by logged_ms) as from_ms, logged_ms as to_ms
  from (select distinct run_id, logged_ms from times_in_run)
),
found as (
  select
    run_id,
    list(concat(strftime(make_timestamp_ms(from_ms), '%Y-%m-%dT%H:%M:%S.%gZ'), '/', strftime(make_timestamp_ms(to_ms), '%Y-%m-%dT%H:%M:%S.%gZ')) order by from_ms) as gaps,
    sum(to_ms - from_ms) / 1000.0 as gap_seconds
  from spaced
  join usual_spacings using (run_id)
  where to_ms - from_ms > $long_ms and to_ms - from_ms > 10 * usual_ms
  group by run_id
)
select l.run_id, coalesce(f.gaps, []), coalesce(f.gap_seconds, 0)
from (select distinct run_id from fresh_times) l
left join found f using (run_id)
