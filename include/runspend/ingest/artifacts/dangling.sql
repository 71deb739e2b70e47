-- DuckDB. Owners with empty folders after a complete listing: their files are gone, or, for a model, were never there. Runs need no
-- artifacts, so a run that never had any is not listed. Runs that MLflow no longer shows are not checked. An inventory file is older than
-- the newest models, so it says nothing about them. ancestors: folders with content and the claims above them. prior: artifact_bytes before
-- this measurement. known: the rows of this table before it.
with empty as (
  select distinct on (owner_kind, owner_id, tracking_server, workspace)
    owner_kind, owner_id, tracking_server, workspace, experiment_id, prefix
  from owners o
  where not coalesce(o.is_purged, false) and not exists (
    select 1 from ancestors a join totals t on t.folder = a.folder and t.objects > 0 where a.prefix = o.prefix)
  order by owner_kind, owner_id, tracking_server, workspace, prefix
),
had as (
  -- Without the server: the folder's rows may have another server's name if two servers read one MLflow.
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
