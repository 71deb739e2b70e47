-- one row per run, job of the bill and time range in which the run was in the job, with the job in place of a machine
with named as (
  select distinct job_key, json_value(tags, '$."runspend.job_aliases"') as aliases
  from billing_lines
  where billing_period = @period and job_key is not null and strpos(tags, '"runspend.job_aliases"') > 0
),
aliases as (
  -- The tasks of a job have their own IDs, which their runs state. The bill only has the job's ID.
  select lower(alias) as alias, min(job_key) as job_key
  from named
  cross join unnest(split(aliases, ' ')) as alias
  group by lower(alias)
),
stated as (
  select distinct
    r.tracking_server, r.run_id, coalesce(a.job_key, n.billed_key, r.job_key) as job_key, a.alias is null and coalesce(n.is_ambiguous, false) as is_ambiguous
  from runs r
  left join aliases a on a.alias = r.job_key
  left join (select stated_key, billed_key, is_ambiguous from matched_names where thing = 'job') n on n.stated_key = r.job_key
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
  -- Lives of jobs in which a run that states the job was active. The name of a job may be used again.
  select distinct l.job_key, l.life_start, l.life_end
  from stated s
  join lives l on l.job_key = s.job_key
  join window_runs r on r.tracking_server = s.tracking_server and r.run_id = s.run_id
  where r.start_time < l.life_end
    and coalesce(r.end_time, r.last_sign_at, timestamp_add(r.start_time, interval @silent_hours hour)) > l.life_start
),
of_family as (
  -- Jobs that an ancestor states are inherited below.
  select distinct a.tracking_server, a.run_id, s.job_key
  from run_ancestors a
  join stated s on s.tracking_server = a.tracking_server and s.run_id = a.ancestor_id
),
jobless as (
  -- Runs that state machines, and no job of the bill.
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
beside as (
  -- Such a run, on a machine that the bill gives to a job of another run at that time, ran in that job.
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
  -- Merge overlapping time ranges of a run in one job: it may state several of its machines.
  select
    tracking_server, run_id, job_key, is_ambiguous, used_from, used_to,
    case when used_from <= max(used_to) over (
      partition by tracking_server, run_id, job_key order by used_from, used_to rows between unbounded preceding and 1 preceding) then 0 else 1 end as begins
  from beside
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
),
known as (
  select tracking_server, run_id, job_key, is_ambiguous, cast(null as timestamp) as used_from, cast(null as timestamp) as used_to, false as is_by_machine
  from stated
  union all
  select tracking_server, run_id, job_key, is_ambiguous, used_from, used_to, true
  from by_machine
),
nearest as (
  -- A run without a job takes the job of its nearest ancestor that has one.
  select a.tracking_server, a.run_id, a.ancestor_id
  from run_ancestors a
  join (select distinct tracking_server, run_id from known) s on s.tracking_server = a.tracking_server and s.run_id = a.ancestor_id
  left join (select distinct tracking_server, run_id from known) own on own.tracking_server = a.tracking_server and own.run_id = a.run_id
  where own.run_id is null
  qualify row_number() over (partition by a.tracking_server, a.run_id order by a.distance, a.ancestor_id) = 1
),
inherited as (
  select n.tracking_server, n.run_id, n.ancestor_id, s.job_key, s.is_ambiguous, s.used_from, s.used_to, s.is_by_machine
  from nearest n
  join known s on s.tracking_server = n.tracking_server and s.run_id = n.ancestor_id
),
own_machines as (
  select distinct n.tracking_server, n.run_id, s.resource_key
  from nearest n
  join stated_machines s on s.tracking_server = n.tracking_server and s.run_id = n.run_id
  join bill_names b on b.thing = 'machine' and b.name = s.resource_key
),
asked as (
  -- What runs that inherit a job state of their own machines.
  select
    i.tracking_server, i.run_id, i.job_key, lower(r.instance_type) as instance_type,
    case when r.pool_key <> coalesce(h.pool_key, '') then r.pool_key end as pool_key
  from inherited i
  join window_runs r on r.tracking_server = i.tracking_server and r.run_id = i.run_id
  join runs h on h.tracking_server = i.tracking_server and h.run_id = i.ancestor_id
  where r.instance_type is not null or r.pool_key is not null
),
machine_kinds as (
  -- Instance types and pools of the machines of these jobs.
  select distinct l.job_key, lower(l.instance_type) as instance_type, l.pool_key
  from billing_lines l
  join (select distinct job_key as named from asked) a on a.named = l.job_key
  where l.billing_period = @period and l.charge_category = 'Usage' and l.service_category in ('Compute', 'AI and Machine Learning')
    and (l.billed_nanoseconds > 0 or l.instance_type is not null)
),
billed_kinds as (
  -- Those on the bill that these runs state.
  select distinct lower(l.instance_type) as instance_type, l.pool_key
  from billing_lines l
  left join (select distinct instance_type as wanted_type from asked) t on t.wanted_type = lower(l.instance_type)
  left join (select distinct pool_key as wanted_pool from asked) q on q.wanted_pool = l.pool_key
  where l.billing_period = @period and (t.wanted_type is not null or q.wanted_pool is not null)
),
elsewhere as (
  -- A run that states machines of the bill, none of them its ancestor's job's, did not run in that job.
  select i.tracking_server, i.run_id, i.job_key
  from inherited i
  join own_machines o on o.tracking_server = i.tracking_server and o.run_id = i.run_id
  left join (select distinct job_key, resource_key from job_machines) l on l.job_key = i.job_key and l.resource_key = o.resource_key
  group by i.tracking_server, i.run_id, i.job_key
  having countif(l.job_key is not null) = 0
  union distinct
  -- Nor did a run that asks for another instance type of the bill than the job's machines have,
  select a.tracking_server, a.run_id, a.job_key
  from asked a
  join (select distinct instance_type from billed_kinds) b on b.instance_type = a.instance_type
  join (select distinct job_key from machine_kinds where instance_type is not null) k on k.job_key = a.job_key
  left join (select distinct job_key, instance_type from machine_kinds) t on t.job_key = a.job_key and t.instance_type = a.instance_type
  where t.job_key is null
  union distinct
  -- or is in a pool of the bill, which neither its ancestor nor a machine of the job is in.
  select a.tracking_server, a.run_id, a.job_key
  from asked a
  join (select distinct pool_key from billed_kinds) b on b.pool_key = a.pool_key
  join (select distinct job_key from machine_kinds) k on k.job_key = a.job_key
  left join (select distinct job_key, pool_key from machine_kinds) t on t.job_key = a.job_key and t.pool_key = a.pool_key
  where t.job_key is null
),
jobs as (
  select tracking_server, run_id, job_key, is_ambiguous, used_from, used_to, is_by_machine from known
  union all
  select i.tracking_server, i.run_id, i.job_key, i.is_ambiguous, i.used_from, i.used_to, i.is_by_machine
  from inherited i
  left join elsewhere e on e.tracking_server = i.tracking_server and e.run_id = i.run_id and e.job_key = i.job_key
  where e.run_id is null
),
billed as (
  select job_key, max(charge_period_end) as billed_until
  from job_windows
  group by job_key
),
spans as (
  select
    r.tracking_server, r.workspace, r.run_id, j.job_key, j.is_ambiguous, r.gpu_count, r.cpu_request, r.memory_request_gb, r.mean_use_percent,
    greatest(r.start_time, least(@window_start, @jobs_from), coalesce(j.used_from, r.start_time)) as span_start,
    least(
      run_end(r.end_time, r.last_sign_at, r.start_time, b.billed_until), greatest(@window_end, @jobs_until),
      coalesce(j.used_to, greatest(@window_end, @jobs_until))) as span_end,
    j.is_by_machine,
    coalesce(r.run_end_rule, run_end_rule(r.end_time, r.last_sign_at, r.start_time, b.billed_until)) as run_end_rule
  from jobs j
  join billed b on b.job_key = j.job_key
  join window_runs r on r.tracking_server = j.tracking_server and r.run_id = j.run_id
  where r.start_time is not null
)
select
  tracking_server, workspace, run_id, job_key as resource_key, span_start, span_end, run_end_rule, is_ambiguous, is_by_machine, gpu_count, cpu_request, memory_request_gb, mean_use_percent
from spans
where span_end > span_start
