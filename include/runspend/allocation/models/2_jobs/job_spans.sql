-- one row per run in a job of the bill: when it ran, with its job in place of a machine
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
of_family as (
  select distinct a.tracking_server, a.run_id, s.job_key
  from run_ancestors a
  join stated s on s.tracking_server = a.tracking_server and s.run_id = a.ancestor_id
),
beside as (
  -- A run that states no job, but a machine of a job that another run states, ran in that job.
  select
    s.tracking_server, s.run_id, m.job_key, logical_or(s.is_ambiguous) as is_ambiguous,
    min(greatest(coalesce(s.used_from, m.billed_from), m.billed_from)) as used_from,
    max(least(coalesce(s.used_to, m.billed_until), m.billed_until)) as used_to
  from stated_machines s
  join job_machines m on m.resource_key = s.resource_key
  join (select distinct job_key from stated) j on j.job_key = m.job_key
  left join (select distinct tracking_server, run_id from stated) own on own.tracking_server = s.tracking_server and own.run_id = s.run_id
  left join of_family f on f.tracking_server = s.tracking_server and f.run_id = s.run_id and f.job_key = m.job_key
  -- A job that an ancestor states is inherited below.
  where own.run_id is null and f.run_id is null and not m.is_shared
  group by s.tracking_server, s.run_id, m.job_key, m.life
),
known as (
  select tracking_server, run_id, job_key, is_ambiguous, cast(null as timestamp) as used_from, cast(null as timestamp) as used_to, false as is_by_machine
  from stated
  union all
  select tracking_server, run_id, job_key, is_ambiguous, used_from, used_to, true
  from beside
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
  select n.tracking_server, n.run_id, s.job_key, s.is_ambiguous, s.used_from, s.used_to, s.is_by_machine
  from nearest n
  join known s on s.tracking_server = n.tracking_server and s.run_id = n.ancestor_id
),
own_machines as (
  select distinct n.tracking_server, n.run_id, s.resource_key
  from nearest n
  join stated_machines s on s.tracking_server = n.tracking_server and s.run_id = n.run_id
  join bill_names b on b.thing = 'machine' and b.name = s.resource_key
),
elsewhere as (
  -- A run that states machines of the bill, none of them its ancestor's job's, did not run in that job.
  select i.tracking_server, i.run_id, i.job_key
  from inherited i
  join own_machines o on o.tracking_server = i.tracking_server and o.run_id = i.run_id
  left join (select distinct job_key, resource_key from job_machines) l on l.job_key = i.job_key and l.resource_key = o.resource_key
  group by i.tracking_server, i.run_id, i.job_key
  having countif(l.job_key is not null) = 0
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
