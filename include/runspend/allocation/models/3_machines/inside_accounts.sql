-- one row per bill and account with at least one charge of the ML platform.
-- Fees of these accounts are shared cost; fees of other accounts are out of scope.
with platform as (
  select distinct l.source, coalesce(l.sub_account_id, '') as sub_account_id
  from billing_lines l
  left join known_machines k on k.resource_key = l.resource_key and k.month = date_trunc(l.charge_date, month)
  left join known_machines o on o.resource_key = l.resource_key
    and o.month = date_trunc(date(timestamp_sub(l.charge_period_end, interval 1 microsecond)), month)
  left join platform_stores s on s.storage_key = l.storage_key
  left join (select distinct job_key from allocated_jobs) j on j.job_key = l.job_key
  where l.billing_period = @period
    and (k.resource_key is not null or o.resource_key is not null or s.storage_key is not null or j.job_key is not null or l.run_tag is not null or l.pool_key is not null or l.scope = 'include'
      or l.service_category = 'AI and Machine Learning')
)
select source, sub_account_id from platform
union distinct
select source, '' as sub_account_id from platform
