-- Accounts in which runs have machines or jobs, or to whose buckets they write. The machines of the other runs are most likely there too.
with buckets as (
  -- The storage account on Azure, as in storage_key; the bucket elsewhere.
  select distinct
    case
      when regexp_contains(artifact_uri, r'^(abfss?|wasbs?)://') then lower(regexp_extract(artifact_uri, r'@([^./]+)'))
      else regexp_extract(artifact_uri, r'^[a-z0-9]+://([^/]+)')
    end as bucket
  from runs
  where artifact_uri is not null
)
select distinct coalesce(b.sub_account_id, '') as account
from billing_lines b
join buckets k on k.bucket = regexp_extract(b.storage_key, r'[^/:]*$')
where b.billing_period >= @first
union distinct
select distinct coalesce(sub_account_id, '') as account
from cost_allocations
where billing_period >= @first and allocated_to = 'run' and match_method in ('run_tag', 'job_id', 'resource_id')
