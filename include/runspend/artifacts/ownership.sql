-- DuckDB. One row per owner and storage class: the figures of one listing.
-- folders: (folder, storage_class, objects, bytes, oldest, newest), folders of the store, any number of rows each.
-- owners: (owner_kind, owner_id, tracking_server, workspace, experiment_id, prefix), prefix below the store's root.
create or replace temp table measured as
with claims as (
  -- one claim per folder: the same store read by two servers must not count twice
  select distinct on (prefix) prefix, owner_kind, owner_id, tracking_server, workspace, experiment_id
  from owners
  order by prefix, tracking_server, workspace, owner_kind, owner_id
),
depths as (
  select distinct len(string_split(prefix, '/')) as depth from claims
),
paths as (
  -- MLflow's file store moves deleted experiments to .trash/ and leaves their URIs as they were
  select folder, string_split(regexp_replace(folder, '(^|/)\.trash/', '\1'), '/') as parts
  from (select distinct folder from folders)
),
ancestors as (
  -- whole path segments only, so that run1 never owns what is run10's
  select p.folder, d.depth, array_to_string(p.parts[1:d.depth], '/') as prefix
  from paths p
  join depths d on d.depth <= len(p.parts)
),
nearest as (
  select a.folder, max_by(a.prefix, a.depth) as prefix
  from ancestors a
  semi join claims c on c.prefix = a.prefix
  group by a.folder
),
layout as (
  -- where no claim reaches: MLflow's own layout, <experiment>/<run>, <experiment>/models/<model>, <experiment>/traces/<trace>
  select p.folder, rtrim(regexp_extract(
    p.folder || '/', '^(?:.*?/)??(?:[0-9a-f]{32}|models/m-[0-9a-f]{32}|traces/(?:tr-)?[0-9a-f]{32})/artifacts/'), '/') as prefix
  from paths p
  anti join nearest n on n.folder = p.folder
),
owned as (
  select n.folder, c.owner_kind, c.owner_id, c.tracking_server, c.workspace, c.experiment_id, c.prefix
  from nearest n
  join claims c on c.prefix = n.prefix
  union all
  select
    l.folder,
    if(l.prefix = '', 'other', 'orphan'),
    if(l.prefix = '', split_part(l.folder, '/', 1), l.prefix),
    null, null,
    nullif(regexp_extract(l.prefix, '(?:^|/)(\d+)/(?:models/|traces/)?[^/]+/artifacts$', 1), ''),
    if(l.prefix = '', split_part(l.folder, '/', 1), l.prefix)
  from layout l
)
select
  o.owner_kind,
  o.owner_id,
  first(o.tracking_server order by o.prefix) as tracking_server,
  first(o.workspace order by o.prefix) as workspace,
  first(o.experiment_id order by o.prefix) as experiment_id,
  min(o.prefix) as prefix,
  f.storage_class,
  sum(f.objects)::bigint as objects,
  if(count(*) = count(f.bytes), sum(f.bytes)::bigint, null) as bytes,
  make_timestamp(min(f.oldest))::timestamptz as oldest_at,
  make_timestamp(max(f.newest))::timestamptz as newest_at,
  true as is_complete
from folders f
join owned o on o.folder = f.folder
group by o.owner_kind, o.owner_id, f.storage_class
