-- Bytes at the end of each of the last twelve months, by kind of owner and storage class. In the newest month, these are the bytes now.
select
  month, owner_kind, storage_class, sum(bytes) as bytes, sum(objects) as objects,
  sum(case when bytes is null then 1 else 0 end) as unknown_owners
from artifact_bytes
where month >= @year_before and month <= @first and (valid_to is null or date(valid_to) >= date_add(month, interval 1 month))
group by month, owner_kind, storage_class
order by month, owner_kind, storage_class
