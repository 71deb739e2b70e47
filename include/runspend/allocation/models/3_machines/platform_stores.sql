-- one row per bucket or storage account that the default scope counts as part of the ML platform, in the form of storage_key:
-- artifact stores with known bytes in the period, and stores that artifact URIs name.
with stores as (
  select store, true as is_measured
  from artifact_bytes
  where month = @period
  union distinct
  select distinct regexp_extract(artifact_uri, r'^[a-z0-9]+://[^/]+') as store, false as is_measured
  from window_runs
  where regexp_contains(artifact_uri, r'^(s3[an]?|gs|abfss?|wasbs?)://')
)
select
  case
    when regexp_contains(store, r'^(abfss?|wasbs?)://') then lower(regexp_extract(store, r'@([^./]+)'))
    else regexp_extract(store, r'^[a-z0-9]+://([^/]+)')
  end as storage_key,
  logical_or(is_measured) as is_measured
from stores
where regexp_contains(store, r'^[a-z0-9]+://[^/]')
group by storage_key
