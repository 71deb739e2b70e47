-- DuckDB. After an incomplete listing, the owners that have no figures yet. Owners that have figures keep them.
create or replace temp table measured as
select distinct on (owner_kind, owner_id)
  owner_kind, owner_id, tracking_server, workspace, experiment_id, prefix, 'UNKNOWN' as storage_class,
  null::bigint as objects, null::bigint as bytes, null::timestamptz as oldest_at, null::timestamptz as newest_at,
  null::bigint as noncurrent_objects, null::bigint as noncurrent_bytes, null::bigint as duplicate_bytes, false as is_complete
from owners o
where not exists (
  select 1 from prior p
  where p.owner_kind = o.owner_kind and p.owner_id = o.owner_id and (p.valid_to is null or p.valid_from = $now)
)
order by owner_kind, owner_id, tracking_server, prefix
