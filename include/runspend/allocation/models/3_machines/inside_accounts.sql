-- one row per bill and account with at least one charge of the ML platform.
-- Fees of these accounts are shared costs; fees of other accounts are out of scope.
with platform as (
  select distinct l.source, coalesce(l.sub_account_id, '') as sub_account_id
  from billing_lines l
  left join (select distinct resource_key from known_machines) i on i.resource_key = l.resource_key
  left join platform_stores s on s.storage_key = l.storage_key
  left join (select distinct job_key from allocated_jobs) j on j.job_key = l.job_key
  where l.billing_period = @period
    and (i.resource_key is not null or s.storage_key is not null or j.job_key is not null or l.run_tag is not null or l.pool_key is not null or l.scope = 'include'
      or l.service_category = 'AI and Machine Learning')
)
select source, sub_account_id from platform
union distinct
select source, '' as sub_account_id from platform
