-- The points to read before a silence counts as a gap: the steps around it that the first read skipped, and the run's other metrics.
with points as (
  select run_id, key, logged_ms, min(step) as first_step, max(step) as last_step from times_in_run where is_first_look group by all
),
spaced as (
  select
    run_id, key, logged_ms - lag(logged_ms) over before as spacing,
    least(first_step, lag(first_step) over before) as first_step, greatest(last_step, lag(last_step) over before) as last_step
  from points
  window before as (partition by run_id order by logged_ms)
),
silent as (
  select s.* from spaced s join usual_spacings u using (run_id) where s.spacing > $long_ms and s.spacing > 10 * u.usual_ms
),
others as (
  select run_id, unnest(string_split(step_keys, chr(31))) as entry from fresh_runs semi join silent using (run_id)
),
parsed as (
  select run_id, split_part(entry, chr(30), 1) as key, try_cast(split_part(entry, chr(30), 2) as bigint) as last_step from others
)
select run_id, key, first_step, last_step, (last_step - first_step) // $looks + 1 as stride from silent
union all
select run_id, key, 0, last_step, last_step // $looks + 1 from parsed anti join silent using (run_id, key) where last_step between 1 and 4611686018427387903
order by run_id, key, first_step
