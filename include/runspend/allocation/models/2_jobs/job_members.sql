-- one row per run and job that the run states, and per time range in which the run was on a machine of a job that another run states
with stated as (
  select distinct
    r.tracking_server, r.run_id, coalesce(a.job_key, n.billed_key, r.job_key) as job_key, coalesce(n.is_ambiguous, false) as is_ambiguous
  from runs r
  left join (select tracking_server, run_id, stated_key, billed_key, is_ambiguous from run_names where name_kind = 'job') n
    on n.tracking_server = r.tracking_server and n.run_id = r.run_id and n.stated_key = r.job_key
  left join job_aliases a on a.alias = coalesce(n.billed_key, r.job_key)
  join (
    select tracking_server, run_id from window_runs
    union distinct
    select tracking_server, ancestor_id as run_id from run_ancestors
  ) w on w.tracking_server = r.tracking_server and w.run_id = r.run_id
  where r.job_key is not null
),
lives as (
  select job_key, life, min(charge_period_start) as life_start, max(charge_period_end) as life_end
  from job_windows
  group by job_key, life
),
known_lives as (
  -- Lives of jobs in which a run that states the job was active. The name of a job may be used again later.
  select distinct l.job_key, l.life_start, l.life_end
  from stated s
  join lives l on l.job_key = s.job_key
  join window_runs r on r.tracking_server = s.tracking_server and r.run_id = s.run_id
  where r.start_time < l.life_end
    and coalesce(r.end_time, r.last_sign_at, timestamp_add(r.start_time, interval @silent_hours hour)) > l.life_start
),
of_family as (
  -- Jobs that an ancestor states. They are inherited in job_spans.
  select distinct a.tracking_server, a.run_id, s.job_key
  from run_ancestors a
  join stated s on s.tracking_server = a.tracking_server and s.run_id = a.ancestor_id
),
jobless as (
  -- Runs that state machines but no job of the bill.
  select
    m.tracking_server, m.run_id, m.resource_key, m.is_ambiguous, m.used_from, m.used_to,
    greatest(r.start_time, coalesce(m.used_from, r.start_time)) as active_from,
    coalesce(m.used_to, r.end_time, r.last_sign_at, timestamp_add(r.start_time, interval @silent_hours hour)) as active_to
  from stated_machines m
  join window_runs r on r.tracking_server = m.tracking_server and r.run_id = m.run_id
  left join (
    select distinct s.tracking_server, s.run_id
    from stated s
    join (select distinct job_key from job_windows) w on w.job_key = s.job_key
  ) own on own.tracking_server = m.tracking_server and own.run_id = m.run_id
  where own.run_id is null and r.start_time is not null
),
machine_jobs as (
  -- If the bill gives such a machine to another run's job at that time, the run was in that job.
  select
    s.tracking_server, s.run_id, m.job_key, s.is_ambiguous,
    greatest(coalesce(s.used_from, m.billed_from), m.billed_from) as used_from,
    least(coalesce(s.used_to, m.billed_until), m.billed_until) as used_to
  from jobless s
  join job_stretches m on m.resource_key = s.resource_key and s.active_from < m.sole_until and s.active_to > m.sole_from
  join known_lives l on l.job_key = m.job_key and m.billed_from >= l.life_start and m.billed_from < l.life_end
  left join of_family f on f.tracking_server = s.tracking_server and f.run_id = s.run_id and f.job_key = m.job_key
  where f.run_id is null
),
steps as (
  -- Merge overlapping time ranges of a run in one job, because a run may state several machines of the job.
  select
    tracking_server, run_id, job_key, is_ambiguous, used_from, used_to,
    case when used_from <= max(used_to) over (
      partition by tracking_server, run_id, job_key order by used_from, used_to rows between unbounded preceding and 1 preceding) then 0 else 1 end as begins
  from machine_jobs
  where used_to > used_from
),
merged as (
  select
    tracking_server, run_id, job_key, is_ambiguous, used_from, used_to,
    sum(begins) over (partition by tracking_server, run_id, job_key order by used_from, used_to rows between unbounded preceding and current row) as stretch
  from steps
),
by_machine as (
  select tracking_server, run_id, job_key, logical_or(is_ambiguous) as is_ambiguous, min(used_from) as used_from, max(used_to) as used_to
  from merged
  group by tracking_server, run_id, job_key, stretch
)
select tracking_server, run_id, job_key, is_ambiguous, cast(null as timestamp) as used_from, cast(null as timestamp) as used_to, false as is_by_machine
from stated
union all
select tracking_server, run_id, job_key, is_ambiguous, used_from, used_to, true
from by_machine
