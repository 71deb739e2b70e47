-- One row per folder, owner and storage class in the artifact stores, as last listed: its objects and bytes.
newest_months as (
  select store, max(month) as month
  from artifact_bytes
  group by store
),
held as (
  select b.store, b.prefix, b.owner_kind, b.owner_id, b.tracking_server, b.workspace, b.experiment_id, b.storage_class,
    if(logical_and(b.objects is not null and b.is_complete), sum(b.objects), null) as objects,
    if(logical_and(b.bytes is not null and b.is_complete), sum(b.bytes), null) as bytes,
    min(b.oldest_at) as oldest_at,
    max(b.newest_at) as newest_at,
    min(b.confirmed_at) as confirmed_at
  from artifact_bytes b
  join newest_months n on n.store = b.store and n.month = b.month
  where b.valid_to is null and b.owner_kind in ('run', 'logged_model', 'trace', 'orphan') and b.prefix is not null
  group by b.store, b.prefix, b.owner_kind, b.owner_id, b.tracking_server, b.workspace, b.experiment_id, b.storage_class
),
