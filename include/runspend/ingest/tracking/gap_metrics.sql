-- For each long run, the metric whose times show gaps: the one in `step_keys` with the highest last step.
-- Metrics with fewer than ten steps are left out, because they are too few to show a gap.
-- `stride` is chosen so that about $looks steps at most are read, evenly spread.
with long_runs as (
  select run_id, unnest(string_split(step_keys, chr(31))) as entry
  from fresh_runs r
  where step_keys <> '' and start_time is not null and coalesce(end_time, last_sign_at) - start_time > interval 6 hours
    and not exists (select 1 from fresh_gaps g where g.run_id = r.run_id)
),
parsed as (
  select run_id, split_part(entry, chr(30), 1) as key, try_cast(split_part(entry, chr(30), 2) as bigint) as last_step from long_runs
)
select run_id, key, 0 as first_step, last_step, last_step // $looks + 1 as stride
from parsed
where last_step between 9 and 4611686018427387903  -- sums of larger steps do not fit into 64 bits
qualify row_number() over (partition by run_id order by last_step desc) = 1
order by run_id
