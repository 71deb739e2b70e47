-- Contents of each artifact store at the end of the month, by storage class, with noncurrent versions, duplicates and bytes without an owner.
select
  store, storage_class, sum(objects) as objects, sum(bytes) as bytes, sum(noncurrent_bytes) as noncurrent_bytes, sum(duplicate_bytes) as duplicate_bytes,
  sum(case when owner_kind = 'orphan' and confirmed_at is not null then bytes else 0 end) as orphaned_bytes,
  sum(case when owner_kind = 'orphan' and confirmed_at is null then bytes else 0 end) as unconfirmed_bytes,
  min(oldest_at) as oldest_at, max(newest_at) as newest_at
from artifact_bytes
where month = @first and (valid_to is null or date(valid_to) >= @next)
group by store, storage_class
order by bytes desc, store, storage_class
limit 100
