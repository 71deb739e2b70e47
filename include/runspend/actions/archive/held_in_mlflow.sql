-- One row per object in MLflow that `prune` may delete: active runs, and active experiments without active runs and without traces.
-- They have no bytes.
used as (
  select tracking_server, workspace, experiment_id, max(coalesce(future_end_time, end_time, last_sign_at, start_time)) as used_at,
    logical_or(lifecycle_stage = 'active' and purged_at is null) as has_active
  from runs
  group by tracking_server, workspace, experiment_id
),
traced as (
  select tracking_server, workspace, experiment_id
  from artifact_owners
  where owner_kind = 'trace'
  group by tracking_server, workspace, experiment_id
),
held as (
  select concat('mlflow:', tracking_server) as store, concat(workspace, '/', run_id) as prefix, 'run' as owner_kind, run_id as owner_id, tracking_server, workspace, experiment_id,
    'NONE' as storage_class, 0 as objects, 0 as bytes, start_time as oldest_at, cast(null as timestamp) as newest_at, cast(null as timestamp) as confirmed_at
  from runs
  where lifecycle_stage = 'active' and purged_at is null
  union all
  select concat('mlflow:', e.tracking_server), concat(e.workspace, '/', e.experiment_id), 'experiment', e.experiment_id, e.tracking_server, e.workspace, e.experiment_id,
    'NONE', 0, 0, e.creation_time,
    greatest(coalesce(e.last_update_time, e.creation_time), coalesce(u.used_at, e.creation_time)), cast(null as timestamp)
  from experiments e
  left join used u on u.tracking_server = e.tracking_server and u.workspace = e.workspace and u.experiment_id = e.experiment_id
  left join traced t on t.tracking_server = e.tracking_server and t.workspace = e.workspace and t.experiment_id = e.experiment_id
  where e.lifecycle_stage = 'active' and e.experiment_id <> '0' and not coalesce(u.has_active, false) and t.experiment_id is null
),
