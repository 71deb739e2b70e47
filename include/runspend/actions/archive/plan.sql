-- One row per run that a policy's selector names and storage class its artifacts lie in, as last listed.
with
newest_months as (
  select
    store,
    max(month) as month
  from artifact_bytes
  group by store
),
run_bytes as (
  select
    b.tracking_server,
    b.workspace,
    b.owner_id as run_id,
    b.storage_class,
    min(b.store) as store,
    count(distinct b.store) as store_count,
    if(logical_and(b.objects is not null and b.is_complete), sum(b.objects), null) as objects,
    if(logical_and(b.bytes is not null and b.is_complete), sum(b.bytes), null) as bytes,
    max(b.newest_at) as newest_at
  from artifact_bytes as b
  inner join newest_months as n
    on n.store = b.store
    and n.month = b.month
  where b.owner_kind = 'run'
    and b.valid_to is null
  group by b.tracking_server, b.workspace, b.owner_id, b.storage_class
)
select
  r.tracking_server,
  r.workspace,
  r.run_id,
  b.storage_class,
  r.experiment_id,
  r.experiment_name,
  r.artifact_uri,
  r.run_status,
  r.start_time,
  r.end_time,
  r.last_sign_at,
  r.purged_at,
  e.experiment_id is null as is_experiment_unknown,
  json_value(r.tags, '$."runspend.keep"') as keep_tag,
  json_value(e.tags, '$."runspend.keep"') as experiment_keep_tag,
  json_value(r.tags, '$.stage') as stage_tag,
  json_value(e.tags, '$.stage') as experiment_stage_tag,
  b.store,
  b.store_count,
  b.objects,
  b.bytes,
  b.newest_at
from runs as r
inner join run_bytes as b
  on b.tracking_server = r.tracking_server
  and b.workspace = r.workspace
  and b.run_id = r.run_id
left join experiments as e
  on e.tracking_server = r.tracking_server
  and e.workspace = r.workspace
  and e.experiment_id = r.experiment_id
where {selector}
order by r.run_id, b.storage_class, r.tracking_server, r.workspace
