-- one row per name of a machine or job on the period's bills. is_several: one bill has it in several accounts or regions.
with machines as (
  select source, resource_key as name, coalesce(min(region_id) <> max(region_id) or min(sub_account_id) <> max(sub_account_id), false) as is_several
  from billing_lines
  where billing_period = @period and resource_key is not null and charge_category = 'Usage' and (billed_nanoseconds > 0 or instance_type is not null)
    and service_category in ('Compute', 'AI and Machine Learning')
  group by source, resource_key
),
jobs as (
  select source, job_key as name, coalesce(min(region_id) <> max(region_id) or min(sub_account_id) <> max(sub_account_id), false) as is_several
  from billing_lines
  where billing_period = @period and job_key is not null and charge_category = 'Usage' and (billed_nanoseconds > 0 or instance_type is not null)
    and service_category in ('Compute', 'AI and Machine Learning')
  group by source, job_key
)
select 'machine' as thing, l.name, s.name is not null as is_several
from (select distinct resource_key as name from billing_lines where billing_period = @period and resource_key is not null) l
left join (select distinct name from machines where is_several) s on s.name = l.name
union all
select 'job' as thing, l.name, s.name is not null as is_several
from (select distinct job_key as name from job_windows) l
left join (select distinct name from jobs where is_several) s on s.name = l.name
