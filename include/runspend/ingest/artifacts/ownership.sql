-- DuckDB. The figures of one listing: one row per owner and storage class.
-- folders: rows of FolderTotals. A folder may have any number of rows. A row with a checksum is one object.
-- owners: (owner_kind, owner_id, tracking_server, workspace, experiment_id, is_purged, prefix). The prefix is relative to the store's root.
create or replace temp table totals as
select
  folder,
  storage_class,
  sum(objects)::bigint as objects,
  if(count(*) = count(bytes), sum(bytes)::bigint, null) as bytes,
  min(oldest) as oldest,
  max(newest) as newest,
  if(count(*) = count(noncurrent_objects), sum(noncurrent_objects)::bigint, null) as noncurrent_objects,
  if(count(*) = count(noncurrent_bytes), sum(noncurrent_bytes)::bigint, null) as noncurrent_bytes,
  count(checksum) as checksums
from folders
group by folder, storage_class;

create or replace temp table copies as
with places as (
  select checksum, bytes, folder, storage_class, count(*) as objects, min(oldest) as oldest
  from folders
  where checksum is not null and bytes > 0
  group by checksum, bytes, folder, storage_class
),
kept as (
  -- Of equal objects, the oldest is the original and the others are duplicates.
  select checksum, bytes, min({'oldest': oldest, 'folder': folder, 'storage_class': storage_class}) as first
  from places
  group by checksum, bytes
  having sum(objects) > 1
)
select
  p.folder, p.storage_class,
  sum(p.bytes * (p.objects - if(p.folder = k.first.folder and p.storage_class = k.first.storage_class, 1, 0)))::bigint as duplicate_bytes
from places p
join kept k on k.checksum = p.checksum and k.bytes = p.bytes
group by p.folder, p.storage_class;

create or replace temp table claims as
-- One claim per folder, so that bytes do not count twice if two tracking servers claim the same folder.
select distinct on (prefix) prefix, owner_kind, owner_id, tracking_server, workspace, experiment_id
from owners
order by prefix, tracking_server, workspace, owner_kind, owner_id;

create or replace temp table paths as
-- MLflow's file store moves deleted experiments to .trash/ but does not change their URIs.
select folder, string_split(regexp_replace(folder, '(^|/)\.trash/', '\1'), '/') as parts
from (select distinct folder from totals);

create or replace temp table ancestors as
-- Only whole path segments are compared, so run1 never owns files of run10.
select p.folder, d.depth, array_to_string(p.parts[1:d.depth], '/') as prefix
from paths p
join (select distinct len(string_split(prefix, '/')) as depth from claims) d on d.depth <= len(p.parts)
semi join claims c on c.prefix = array_to_string(p.parts[1:d.depth], '/');

create or replace temp table measured as
with nearest as (
  select folder, max_by(prefix, depth) as prefix
  from ancestors
  group by folder
),
layout as (
  -- Folders without a claim are recognized by MLflow's own layout: <experiment>/<run>, <experiment>/models/<model> or
  -- <experiment>/traces/<trace>, each with a folder "artifacts" below.
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
  if(count(*) = count(f.noncurrent_objects), sum(f.noncurrent_objects)::bigint, null) as noncurrent_objects,
  if(count(*) = count(f.noncurrent_bytes), sum(f.noncurrent_bytes)::bigint, null) as noncurrent_bytes,
  if(sum(f.checksums) = 0 and sum(f.bytes) > 0, null, coalesce(sum(c.duplicate_bytes), 0)::bigint) as duplicate_bytes,
  true as is_complete
from totals f
join owned o on o.folder = f.folder
left join copies c on c.folder = f.folder and c.storage_class = f.storage_class
group by o.owner_kind, o.owner_id, f.storage_class
