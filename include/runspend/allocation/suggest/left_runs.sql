-- Runs without a machine, numbered by group: their time in each hour.
met as (
  select distinct tracking_server, workspace, run_id
  from cost_allocations
  where billing_period >= @first and allocated_to = 'run' and match_method in ('run_tag', 'job_id', 'resource_id', 'pool_time', 'instance_type_time')
),
left_runs as (
  select
    r.tracking_server, r.workspace, r.run_id, r.parent_run_id, coalesce(r.experiment_name, '') as experiment_name, coalesce(r.user_name, '') as user_name,
    coalesce(r.source_name, '') as source_name, coalesce(r.gpu_count > 0 or r.gpu_type is not null, false) as wants_gpus,
    greatest(1, least(1000, coalesce(r.num_nodes, 1))) as nodes,
    unix_micros(greatest(r.start_time, @since)) as begins, unix_micros(least(coalesce(r.end_time, r.last_sign_at), @upto)) as ends
  from runs r
  left join met m on m.tracking_server = r.tracking_server and m.workspace = r.workspace and m.run_id = r.run_id
  where m.run_id is null and r.pool_key is null and r.start_time < @upto and coalesce(r.end_time, r.last_sign_at) > @since
    and timestamp_diff(coalesce(r.end_time, r.last_sign_at), r.start_time, microsecond) < 5356800000000
),
own_hours as (
  select
    tracking_server, workspace, run_id, parent_run_id, experiment_name, user_name, source_name, wants_gpus, nodes, hour_number,
    least(ends, (hour_number + 1) * 3600000000) - greatest(begins, hour_number * 3600000000) as micros
  from left_runs
  cross join unnest(generate_array(div(begins, 3600000000), div(ends - 1, 3600000000))) as hour_number
  where ends > begins
),
children as (
  select tracking_server, workspace, parent_run_id as run_id, hour_number, sum(micros) as micros
  from own_hours
  where parent_run_id is not null
  group by tracking_server, workspace, parent_run_id, hour_number
),
leaf_hours as (
  -- A parent has only the time that its children leave.
  select
    o.tracking_server, o.experiment_name, o.user_name, o.source_name, o.wants_gpus, o.run_id, o.hour_number,
    o.nodes * greatest(0, o.micros - coalesce(c.micros, 0)) as micros
  from own_hours o
  left join children c on c.tracking_server = o.tracking_server and c.workspace = o.workspace and c.run_id = o.run_id and c.hour_number = o.hour_number
),
numbered as (
  select
    dense_rank() over (order by tracking_server, experiment_name, user_name, source_name, wants_gpus) as cell,
    tracking_server, experiment_name, user_name, source_name, wants_gpus, run_id, hour_number, micros
  from leaf_hours
  where micros > 0
)
