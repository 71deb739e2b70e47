-- one row per name of a machine or job on the period's bills.
-- is_several: one bill has it in several accounts or regions, or several bills of SLURM have it: their numbers and nodes name no cluster.
with places as (
  select distinct
    source, case when service_provider_name = 'SLURM' then 'SLURM' else source end as bill, resource_key, job_key, region_id, sub_account_id,
    charge_category = 'Usage' and (billed_nanoseconds > 0 or instance_type is not null)
      and service_category in ('Compute', 'AI and Machine Learning') as is_machine_time
  from billing_lines
  where billing_period = @period and (resource_key is not null or job_key is not null)
),
several as (
  select 'machine' as thing, resource_key as name
  from places
  where is_machine_time
  group by bill, resource_key
  having min(region_id) <> max(region_id) or min(sub_account_id) <> max(sub_account_id) or min(source) <> max(source)
  union distinct
  select 'job', job_key
  from places
  where is_machine_time
  group by bill, job_key
  having min(region_id) <> max(region_id) or min(sub_account_id) <> max(sub_account_id) or min(source) <> max(source)
),
names as (
  select distinct 'machine' as thing, resource_key as name from places where resource_key is not null
  union all
  select distinct 'job', job_key from job_windows
)
select n.thing, n.name, s.name is not null as is_several
from names n
left join several s on s.thing = n.thing and s.name = n.name
