-- One row per run, with its tags and params as JSON, the names of its utilization metrics, and its last sign of activity.
with chosen as materialized (select r.* from runs r {where}),
tag_maps as ({tags}),
param_maps as ({params}),
param_lists as (
  select run_uuid, string_agg(key || chr(30) || value, chr(31)) as param_list from params
  where value is not null {only_chosen} group by run_uuid
),
signs as (
  select run_uuid, max(timestamp)::bigint as last_ms from latest_metrics
  where run_uuid in (select run_uuid from chosen where coalesce(end_time, 0) = 0 or end_time > {believed_ms}) and timestamp <= {believed_ms} and {is_from_run} group by run_uuid
),
last_steps as (
  select run_uuid, min(key collate "C") as key, step, row_number() over (partition by run_uuid order by step desc) as place from latest_metrics
  where run_uuid in (select run_uuid from chosen where coalesce(end_time, 0) = 0 or end_time - start_time > {long_ms}) and step > 0 and {is_from_run}
  group by run_uuid, step
),
step_keys as (
  select run_uuid, string_agg(key || chr(30) || step, chr(31)) as step_keys from last_steps where place <= {step_keys} group by run_uuid
),
use_keys as (
  select run_uuid, string_agg(key || chr(30) || step, chr(31)) as use_keys from latest_metrics
  where ({kinds}) {only_chosen} group by run_uuid
)
select r.run_uuid::text, coalesce(r.experiment_id::text, ''), coalesce(r.name::text, ''), coalesce(r.user_id::text, ''),
       coalesce(r.status::text, ''), coalesce(r.lifecycle_stage::text, ''), coalesce(r.artifact_uri::text, ''),
       coalesce(t.document, '{{}}'), coalesce(p.document, '{{}}'), coalesce(l.param_list, ''), coalesce(u.use_keys, ''), coalesce(k.step_keys, ''),
       coalesce(r.start_time, 0)::bigint, coalesce(r.end_time, 0)::bigint, coalesce(s.last_ms, 0)::bigint
from chosen r
left join tag_maps t on t.run_uuid = r.run_uuid
left join param_maps p on p.run_uuid = r.run_uuid
left join param_lists l on l.run_uuid = r.run_uuid
left join signs s on s.run_uuid = r.run_uuid
left join step_keys k on k.run_uuid = r.run_uuid
left join use_keys u on u.run_uuid = r.run_uuid
