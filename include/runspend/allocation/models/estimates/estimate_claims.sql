-- one row per run that asks for machines without naming them, and the type or machine whose price its hours have.
-- If neither the run nor an ancestor has a machine, the run asks for all its nodes by instance type. A run of several nodes that states some of
-- them asks for the rest, at the price of a stated one (see pool_held). num_nodes is 0 for a run that has its own machine and would otherwise
-- share the claim of an ancestor (see pool_families).
with machines as (
  select distinct tracking_server, run_id, resource_key, is_inherited from estimate_stated
),
sizes as (
  -- A machine that is not on any bill yet counts as one machine of the run's type. A pod does not.
  select
    m.resource_key, max(s.instance_type) as instance_type,
    coalesce(logical_and(s.is_one_machine), true) and not regexp_contains(m.resource_key, r'^(arn:[^:]*:eks:[^:]*:[^:]*:pod/|k8s://)') as is_one_machine
  from (select distinct resource_key from machines) m
  left join estimate_seen s on s.resource_key = m.resource_key
  group by m.resource_key
),
asked as (
  -- A run in a pool asks for what it states itself.
  select
    w.tracking_server, w.workspace, w.run_id, w.start_time, w.end_time, w.last_sign_at, t.instance_type,
    t.instance_type is not null or w.pool_key is not null as is_asking,
    case when w.pool_key is null and t.run_id is not null then t.claim_run_id else w.run_id end as claim_run_id,
    case when w.pool_key is null and t.run_id is not null then t.num_nodes else w.num_nodes end as num_nodes
  from window_runs w
  left join type_claims t on t.tracking_server = w.tracking_server and t.run_id = w.run_id
),
stated as (
  select
    m.tracking_server, m.run_id, min(m.resource_key) as resource_key, logical_and(m.is_inherited) as is_inherited,
    logical_and(s.is_one_machine and coalesce(s.instance_type = a.instance_type, true)) as are_nodes
  from machines m
  join sizes s on s.resource_key = m.resource_key
  join asked a on a.tracking_server = m.tracking_server and a.run_id = m.run_id
  group by m.tracking_server, m.run_id
)
select
  a.tracking_server, a.workspace, a.run_id, a.claim_run_id, a.start_time, a.instance_type,
  case when a.claim_run_id <> a.run_id and not s.is_inherited then 0 else greatest(coalesce(a.num_nodes, 1), 1) end as num_nodes,
  coalesce(s.resource_key, concat('type ', a.instance_type)) as priced_as,
  case
    when a.end_time is not null then a.end_time
    when coalesce(a.last_sign_at, a.start_time) >= timestamp_sub(@now, interval @alive_hours hour) then @now
    when a.last_sign_at is not null then a.last_sign_at
    else timestamp_add(a.start_time, interval @silent_hours hour)
  end as ended_at
from asked a
left join stated s on s.tracking_server = a.tracking_server and s.run_id = a.run_id
where a.start_time is not null
  and (s.run_id is null or (a.claim_run_id <> a.run_id and not s.is_inherited) or (s.are_nodes and a.num_nodes > 1 and a.is_asking))
