-- One row per artifact store and storage class, from the last measurement: current and noncurrent bytes, duplicates, and orphaned bytes.
with newest as (
  select store, max(month) as month
  from artifact_bytes
  group by store
)
select
  b.store, b.storage_class, sum(b.objects) as objects, sum(b.bytes) as bytes, sum(b.noncurrent_bytes) as noncurrent_bytes, sum(b.duplicate_bytes) as duplicate_bytes,
  sum(if(b.owner_kind = 'orphan' and b.confirmed_at is not null, b.bytes, 0)) as orphaned_bytes,
  sum(if(b.owner_kind = 'orphan' and b.confirmed_at is null, b.bytes, 0)) as unconfirmed_bytes,
  min(b.oldest_at) as oldest_at, max(b.newest_at) as newest_at
from artifact_bytes b
join newest n on n.store = b.store and n.month = b.month
where b.valid_to is null
group by b.store, b.storage_class
order by b.store, b.storage_class
