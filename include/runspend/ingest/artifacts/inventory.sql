-- DuckDB. The columns of FolderTotals from one file of an S3 inventory: one row for each object and each noncurrent version.
-- rows_given: (bucket, key, size, is_latest, is_delete_marker, last_modified_date, e_tag, storage_class), null if the file lacks a column.
-- $is_encoded: whether keys are URL-encoded, as in CSV (a blank as %20 or +).
-- $tells_versions: whether the file states which version is current.
with objects as (
  select
    if($is_encoded, url_decode(replace(key, '+', ' ')), key) as key,
    try_cast(size as bigint) as size,
    coalesce(try_cast(is_latest as boolean), true) as is_latest,
    epoch_us(try_cast(last_modified_date as timestamptz)) as modified,
    lower(trim(e_tag, '"')) as etag,
    coalesce(nullif(storage_class, ''), 'UNKNOWN') as storage_class
  from rows_given
  where not coalesce(try_cast(is_delete_marker as boolean), false)
)
select
  regexp_replace(substr(key, length($prefix) + 1), '/?[^/]*$', '') as folder,
  storage_class,
  if(is_latest, 1, 0)::bigint as objects,
  if(is_latest, size, 0)::bigint as bytes,
  if(is_latest, modified, null)::bigint as oldest,
  if(is_latest, modified, null)::bigint as newest,
  if($tells_versions, if(is_latest, 0, 1), null)::bigint as noncurrent_objects,
  if($tells_versions, if(is_latest, 0, size), null)::bigint as noncurrent_bytes,
  if(is_latest and size > 0 and regexp_full_match(etag, '[0-9a-f]{32}(-[0-9]{1,5})?'), etag, null) as checksum
from objects
where starts_with(key, $prefix)
