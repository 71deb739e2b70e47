-- Owners without any bytes left at the end of the month, by store and kind of owner.
select store, owner_kind, count(*) as owners, sum(had_bytes) as had_bytes
from dangling_owners
where date(gone_since) < @next
group by store, owner_kind
order by store, owner_kind
