-- one row per run that states who calls language models: the time in which it ran, with its IAM principal instead of a machine
with stated as (
  select distinct r.tracking_server, r.run_id, r.principal_key
  from runs r
  join (
    select tracking_server, run_id from window_runs
    union distinct
    select tracking_server, ancestor_id as run_id from run_ancestors
  ) w on w.tracking_server = r.tracking_server and w.run_id = r.run_id
  where r.principal_key is not null
),
nearest as (
  -- A run that states no principal gets that of its nearest ancestor that states one.
  select a.tracking_server, a.run_id, a.ancestor_id
  from run_ancestors a
  join stated s on s.tracking_server = a.tracking_server and s.run_id = a.ancestor_id
  left join stated own on own.tracking_server = a.tracking_server and own.run_id = a.run_id
  where own.run_id is null
  qualify row_number() over (partition by a.tracking_server, a.run_id order by a.distance, a.ancestor_id) = 1
),
callers as (
  select tracking_server, run_id, principal_key from stated
  union all
  select n.tracking_server, n.run_id, s.principal_key
  from nearest n
  join stated s on s.tracking_server = n.tracking_server and s.run_id = n.ancestor_id
),
billed as (
  select max(charge_period_end) as billed_until
  from billing_lines
  where billing_period = @period and principal_key is not null
),
spans as (
  select
    r.tracking_server, r.workspace, r.run_id, c.principal_key,
    greatest(r.start_time, @window_start) as span_start,
    least(run_end(r.end_time, r.last_sign_at, r.start_time, b.billed_until), @window_end) as span_end,
    coalesce(r.run_end_rule, run_end_rule(r.end_time, r.last_sign_at, r.start_time, b.billed_until)) as run_end_rule
  from callers c
  join window_runs r on r.tracking_server = c.tracking_server and r.run_id = c.run_id
  cross join billed b
  where r.start_time is not null and b.billed_until is not null
)
select
  tracking_server, workspace, run_id, principal_key as resource_key, span_start, span_end, run_end_rule, false as is_ambiguous,
  cast(null as float64) as gpu_count, cast(null as float64) as cpu_request, cast(null as float64) as memory_request_gb, cast(null as float64) as mean_use_percent
from spans
where span_end > span_start
