-- One row per run, with its tags and params as JSON, the names of its utilization metrics, and its last sign of activity.
with last_steps as (
  select m.run_uuid, convert(min(cast(m.key as binary)) using utf8mb4) as metric, m.step,
         row_number() over (partition by m.run_uuid order by m.step desc) as place
  from runs r join latest_metrics m on m.run_uuid = r.run_uuid
  where (coalesce(r.end_time, 0) = 0 or r.end_time - r.start_time > {long_ms}) and m.step > 0 and {is_from_run} {within}
  group by m.run_uuid, m.step
),
step_keys as (
  select run_uuid, group_concat(concat(metric, '{between}', step) separator '{after}') as step_keys from last_steps
  where place <= {step_keys} group by run_uuid
)
select r.run_uuid, coalesce(cast(r.experiment_id as char), ''), coalesce(r.name, ''), coalesce(r.user_id, ''), coalesce(r.status, ''),
       coalesce(r.lifecycle_stage, ''), coalesce(r.artifact_uri, ''),
       {tags},
       {params},
       coalesce((select group_concat(concat(p.key, '{between}', p.value) separator '{after}') from params p where p.run_uuid = r.run_uuid), ''),
       coalesce((select group_concat(concat(m.key, '{between}', m.step) separator '{after}') from latest_metrics m
                 where m.run_uuid = r.run_uuid and ({kinds})), ''),
       coalesce(k.step_keys, ''), coalesce(r.start_time, 0), coalesce(r.end_time, 0),
       case when coalesce(r.end_time, 0) = 0 or r.end_time > {believed_ms} then coalesce((
         select max(m.timestamp) from latest_metrics m where m.run_uuid = r.run_uuid and m.timestamp <= {believed_ms} and {is_from_run}), 0) else 0 end
from runs r left join step_keys k on k.run_uuid = r.run_uuid
where true {within}
