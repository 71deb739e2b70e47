-- one row per bucket or storage account that holds artifacts in the period, written like the bill's storage_key.
select distinct
  case
    when regexp_contains(store, r'^(abfss?|wasbs?)://') then lower(regexp_extract(store, r'@([^./]+)'))
    else regexp_extract(store, r'^[a-z0-9]+://([^/]+)')
  end as storage_key
from artifact_bytes
where month = @period and regexp_contains(store, r'^[a-z0-9]+://[^/]')
