-- one row per run, job of the bill and time range in which the run was in the job. The job is in the column of a machine.
with nearest as (
  -- A run without a job gets the job of its nearest ancestor that has one.
  select a.tracking_server, a.run_id, a.ancestor_id
  from run_ancestors a
  join (select distinct tracking_server, run_id from job_members) s on s.tracking_server = a.tracking_server and s.run_id = a.ancestor_id
  left join (select distinct tracking_server, run_id from job_members) own on own.tracking_server = a.tracking_server and own.run_id = a.run_id
  where own.run_id is null
  qualify row_number() over (partition by a.tracking_server, a.run_id order by a.distance, a.ancestor_id) = 1
),
inherited as (
  select n.tracking_server, n.run_id, n.ancestor_id, s.job_key, s.is_ambiguous, s.used_from, s.used_to, s.is_by_machine
  from nearest n
  join job_members s on s.tracking_server = n.tracking_server and s.run_id = n.ancestor_id
),
own_machines as (
  select distinct n.tracking_server, n.run_id, s.resource_key
  from nearest n
  join stated_machines s on s.tracking_server = n.tracking_server and s.run_id = n.run_id
  join bill_names b on b.name_kind = 'machine' and b.name = s.resource_key
),
asked as (
  -- Instance types and pools stated by runs with an inherited job.
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
  -- Those instance types and pools stated by these runs that are on the bill.
  select distinct lower(l.instance_type) as instance_type, l.pool_key
  from billing_lines l
  left join (select distinct instance_type as wanted_type from asked) t on t.wanted_type = lower(l.instance_type)
  left join (select distinct pool_key as wanted_pool from asked) q on q.wanted_pool = l.pool_key
  where l.billing_period = @period and (t.wanted_type is not null or q.wanted_pool is not null)
),
elsewhere as (
  -- A run that states machines of the bill, but none of its ancestor's job, did not run in that job.
  select i.tracking_server, i.run_id, i.job_key
  from inherited i
  join own_machines o on o.tracking_server = i.tracking_server and o.run_id = i.run_id
  left join (select distinct job_key, resource_key from job_machines) l on l.job_key = i.job_key and l.resource_key = o.resource_key
  group by i.tracking_server, i.run_id, i.job_key
  having countif(l.job_key is not null) = 0
  union distinct
  -- Nor did a run that asks for an instance type of the bill which no machine of the job has,
  select a.tracking_server, a.run_id, a.job_key
  from asked a
  join (select distinct instance_type from billed_kinds) b on b.instance_type = a.instance_type
  join (select distinct job_key from machine_kinds where instance_type is not null) k on k.job_key = a.job_key
  left join (select distinct job_key, instance_type from machine_kinds) t on t.job_key = a.job_key and t.instance_type = a.instance_type
  where t.job_key is null
  union distinct
  -- nor a run in a pool of the bill in which neither its ancestor nor a machine of the job is.
  select a.tracking_server, a.run_id, a.job_key
  from asked a
  join (select distinct pool_key from billed_kinds) b on b.pool_key = a.pool_key
  join (select distinct job_key from machine_kinds) k on k.job_key = a.job_key
  left join (select distinct job_key, pool_key from machine_kinds) t on t.job_key = a.job_key and t.pool_key = a.pool_key
  where t.job_key is null
),
jobs as (
  select tracking_server, run_id, job_key, is_ambiguous, used_from, used_to, is_by_machine from job_members
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
