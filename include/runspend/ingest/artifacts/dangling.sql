-- DuckDB. The owners whose folders are empty after a complete listing. Either their files are gone, or a model never had any.
-- A run does not need artifacts, so a run that never had any is not included. Runs that MLflow no longer shows are not checked.
-- An inventory file may be older than the newest models, so models that never had files are not reported from an inventory.
-- ancestors: the folders with content, each with the claims above it. prior: artifact_bytes before this measurement.
-- known: dangling_owners before this measurement.
with empty as (
  select distinct on (owner_kind, owner_id, tracking_server, workspace)
    owner_kind, owner_id, tracking_server, workspace, experiment_id, prefix
  from owners o
  where not coalesce(o.is_purged, false) and not exists (
    select 1 from ancestors a join totals t on t.folder = a.folder and t.objects > 0 where a.prefix = o.prefix)
  order by owner_kind, owner_id, tracking_server, workspace, prefix
),
had as (
  -- The server is not compared. If two configured servers read one MLflow, the rows may have the other server's name.
  select owner_kind, owner_id, sum(objects)::bigint as objects, sum(bytes)::bigint as bytes
  from prior
  where objects > 0 and (valid_to is null or valid_to = $now) and valid_from < $now
  group by owner_kind, owner_id
)
select
  $store as store, e.owner_kind, e.owner_id, e.tracking_server, e.workspace, e.experiment_id, e.prefix,
  coalesce(k.gone_since, $now) as gone_since,
  coalesce(k.had_objects, h.objects) as had_objects,
  coalesce(k.had_bytes, h.bytes) as had_bytes,
  coalesce(k.load_id, $load_id) as load_id
from empty e
left join had h on h.owner_kind = e.owner_kind and h.owner_id = e.owner_id
left join known k
  on k.owner_kind = e.owner_kind and k.owner_id = e.owner_id
  and k.tracking_server is not distinct from e.tracking_server and k.workspace is not distinct from e.workspace
where h.owner_id is not null or k.owner_id is not null or (e.owner_kind = 'logged_model' and not $is_inventory)
order by e.owner_kind, e.owner_id, e.tracking_server, e.workspace
