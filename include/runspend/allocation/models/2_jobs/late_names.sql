-- one row per name of a machine or job and place on earlier bills whose last part is also in a name on this period's late lines. Only bills
-- since the month to which the late lines refer count. For late lines of Databricks jobs, also one row per workspace of those bills.
with late as (
  select distinct
    cast(date_trunc(charge_date, month) as date) as month, resource_key, job_key,
    case when is_databricks(host_provider_name, service_provider_name, service_name) then 'Databricks' else service_provider_name end as service_provider_name
  from billing_lines
  where billing_period = @period and charge_date < @period and (resource_key is not null or job_key is not null)
),
late_machines as (
  select regexp_extract(resource_key, r'[^/]*$') as last_part, min(month) as month
  from late
  where resource_key is not null
  group by regexp_extract(resource_key, r'[^/]*$')
),
late_jobs as (
  select regexp_extract(job_key, r'[^/]*$') as last_part, min(month) as month
  from late
  where job_key is not null
  group by regexp_extract(job_key, r'[^/]*$')
),
late_workspaces as (
  select service_provider_name, min(month) as month
  from late
  where job_key is not null and service_provider_name = 'Databricks'
  group by service_provider_name
),
used as (
  select
    billing_period, source, resource_key, job_key, sub_account_id, region_id, availability_zone, service_provider_name,
    is_databricks(host_provider_name, service_provider_name, service_name) as is_databricks,
    charge_category = 'Usage' as is_usage,
    (billed_nanoseconds > 0 or instance_type is not null) and service_category in ('Compute', 'AI and Machine Learning') as has_machine_time
  from billing_lines
  where billing_period >= cast(date_trunc(date(@window_start), month) as date) and billing_period < @period
    and (resource_key is not null or job_key is not null)
),
billed as (
  select distinct
    billing_period, source, resource_key, job_key, sub_account_id, region_id, availability_zone,
    case when is_databricks then 'Databricks' else service_provider_name end as service_provider_name,
    is_usage and (is_databricks or has_machine_time) as is_machine_time
  from used
),
named as (
  select
    b.source, case when m.last_part is not null then b.resource_key end as resource_key, case when j.last_part is not null then b.job_key end as job_key,
    b.sub_account_id, b.region_id, b.availability_zone, b.service_provider_name, b.is_machine_time
  from billed b
  left join late_machines m on m.last_part = regexp_extract(b.resource_key, r'[^/]*$') and m.month <= b.billing_period
  left join late_jobs j on j.last_part = regexp_extract(b.job_key, r'[^/]*$') and j.month <= b.billing_period
  left join late_workspaces w on w.service_provider_name = b.service_provider_name and w.month <= b.billing_period
  where m.last_part is not null or j.last_part is not null or w.month is not null
)
select source, resource_key, job_key, sub_account_id, region_id, availability_zone, service_provider_name, logical_or(is_machine_time) as is_machine_time
from named
group by source, resource_key, job_key, sub_account_id, region_id, availability_zone, service_provider_name
