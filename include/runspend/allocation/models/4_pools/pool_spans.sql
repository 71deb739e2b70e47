-- one row per run and pool whose machines it asks for: the time in which the run was active, and the run to which the claim belongs
with pooled as (
  select r.tracking_server, r.run_id, p.pool_number, p.kind_number, p.billed_until, r.run_id as claim_run_id, r.num_nodes, r.gpu_count
  from window_runs r
  join pools p on p.match_method = 'pool_time' and p.target_key = r.pool_key
),
choices as (
  select distinct instance_type, statement, claim_key from type_choices
),
asked as (
  select tracking_server, run_id, pool_number, kind_number, billed_until, claim_run_id, num_nodes, gpu_count
  from pooled
  union all
  -- A run in a pool asks for machines of this pool only.
  select t.tracking_server, t.run_id, p.pool_number, p.kind_number, p.billed_until, t.claim_run_id, t.num_nodes, t.gpu_count
  from type_claims t
  join choices c on c.instance_type = t.instance_type and c.statement = t.statement
  join pools p on p.match_method = 'instance_type_time' and p.target_key = c.claim_key
  left join pooled o on o.tracking_server = t.tracking_server and o.run_id = t.run_id
  where o.run_id is null
),
spans as (
  select
    r.tracking_server, r.workspace, r.run_id, a.pool_number, a.kind_number, a.claim_run_id, a.num_nodes, a.gpu_count,
    r.cpu_request, r.memory_request_gb, r.mean_use_percent,
    greatest(r.start_time, @window_start) as span_start,
    least(run_end(r.end_time, r.last_sign_at, r.start_time, a.billed_until), @window_end) as span_end,
    coalesce(r.run_end_rule, run_end_rule(r.end_time, r.last_sign_at, r.start_time, a.billed_until)) as run_end_rule
  from asked a
  join window_runs r on r.tracking_server = a.tracking_server and r.run_id = a.run_id
  where r.start_time is not null
)
select
  tracking_server, workspace, run_id, pool_number, kind_number, claim_run_id, span_start, span_end, run_end_rule,
  num_nodes, gpu_count, cpu_request, memory_request_gb, mean_use_percent
from spans
where span_end > span_start
