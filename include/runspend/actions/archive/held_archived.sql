-- One row per archive that is old enough for a `delete`. Its folder is the folder in the archive store.
held as (
  select target as store, folder as prefix, owner_kind, owner_id, nullif(tracking_server, '') as tracking_server, nullif(workspace, '') as workspace, experiment_id,
    'UNKNOWN' as storage_class, objects, bytes, ended_at as oldest_at, ended_at as newest_at, ended_at as confirmed_at
  from archives
  where action = 'archive' and state in ('archived', 'partial') and objects > 0 and ended_at <= @archived_before
),
