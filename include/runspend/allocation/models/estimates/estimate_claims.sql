-- one row per run that asks for machines without naming them, and what its hours are priced as.
-- A run without a machine of its own or of an ancestor asks for all its nodes, by instance type. A run of several nodes that states some
-- of them asks for the rest, at the price of one that it states: see pool_held.
with machines as (
  select distinct s.tracking_server, s.run_id, s.resource_key
  from estimate_stated s
  left join estimate_elsewhere e on e.tracking_server = s.tracking_server and e.run_id = s.run_id
  where e.run_id is null
),
sizes as (
  -- A machine that no bill has yet counts as one machine of the run's type; a pod does not.
  select
    m.resource_key, max(s.instance_type) as instance_type,
    coalesce(logical_and(s.is_one_machine), true) and not regexp_contains(m.resource_key, r'^(arn:[^:]*:eks:[^:]*:[^:]*:pod/|k8s://)') as is_one_machine
  from (select distinct resource_key from machines) m
  left join estimate_seen s on s.resource_key = m.resource_key
  group by m.resource_key
),
stated as (
  select
    m.tracking_server, m.run_id, min(m.resource_key) as resource_key,
    logical_and(s.is_one_machine and coalesce(s.instance_type = lower(w.instance_type), true)) as are_nodes
  from machines m
  join sizes s on s.resource_key = m.resource_key
  join window_runs w on w.tracking_server = m.tracking_server and w.run_id = m.run_id
  group by m.tracking_server, m.run_id
)
select
  w.tracking_server, w.workspace, w.run_id, w.start_time, w.end_time, w.last_sign_at,
  lower(w.instance_type) as instance_type, greatest(coalesce(w.num_nodes, 1), 1) as num_nodes,
  coalesce(s.resource_key, concat('type ', lower(w.instance_type))) as priced_as,
  case
    when w.end_time is not null then w.end_time
    when coalesce(w.last_sign_at, w.start_time) >= timestamp_sub(@now, interval @alive_hours hour) then @now
    when w.last_sign_at is not null then w.last_sign_at
    else timestamp_add(w.start_time, interval @silent_hours hour)
  end as ended_at
from window_runs w
left join stated s on s.tracking_server = w.tracking_server and s.run_id = w.run_id
where w.start_time is not null
  and (s.run_id is null or (s.are_nodes and w.num_nodes > 1 and (w.instance_type is not null or w.pool_key is not null)))
