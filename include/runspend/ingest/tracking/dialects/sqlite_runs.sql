-- One row per run, with its tags and params as JSON, the names of its utilization metrics, and its last sign of activity.
select cast(r.run_uuid as text), coalesce(cast(r.experiment_id as text), ''), coalesce(cast(r.name as text), ''),
       coalesce(cast(r.user_id as text), ''), coalesce(cast(r.status as text), ''), coalesce(cast(r.lifecycle_stage as text), ''),
       coalesce(cast(r.artifact_uri as text), ''),
       {tags},
       {params},
       coalesce((select group_concat(p.key || '{between}' || p.value, '{after}') from params p where p.run_uuid = r.run_uuid), ''),
       {use_keys},
       case when coalesce(r.end_time, 0) = 0 or r.end_time - r.start_time > {long_ms} then coalesce((
         select group_concat(k.key || '{between}' || k.step, '{after}') from (
           select min(cast(m.key as text)) as key, cast(m.step as integer) as step from latest_metrics m
           where m.run_uuid = r.run_uuid and m.step > 0 and {is_from_run} group by m.step order by m.step desc limit {step_keys}) k), '') else '' end,
       coalesce(cast(r.start_time as integer), 0), coalesce(cast(r.end_time as integer), 0),
       case when coalesce(r.end_time, 0) = 0 or r.end_time > {believed_ms} then coalesce((
         select max(cast(m.timestamp as integer)) from latest_metrics m where m.run_uuid = r.run_uuid and m.timestamp <= {believed_ms} and {is_from_run}), 0) else 0 end
from runs r
