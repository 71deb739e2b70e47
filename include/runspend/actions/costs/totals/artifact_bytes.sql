-- One row per store: its objects and bytes, as last measured.
with newest as (
  select store, max(month) as month
  from artifact_bytes
  group by store
)
select newest.month as period, b.store, sum(b.objects) as objects, sum(b.bytes) as bytes
from artifact_bytes b
join newest on newest.store = b.store and newest.month = b.month
where b.valid_to is null
group by newest.month, b.store
order by period desc, b.store
limit 100
