-- one row per name of a machine or job on the period's bills, or on an earlier bill to which late lines refer.
-- is_several: the name may mean several machines or jobs. This is the case if one bill has it in several accounts or regions, or if several
-- SLURM bills have it, because SLURM's job numbers and node names do not contain the cluster. Short names of machines and names of pods do
-- not contain the account: two clouds, or two zones of Google Kubernetes Engine, may use the same names.
-- is_of_only_workspace: the bills have only one Databricks workspace (its account), so the number of a job run is enough to identify it.
-- is_late: only an earlier bill has the name.
with used as (
  select
    source, resource_key, job_key, sub_account_id, region_id, availability_zone, service_provider_name,
    is_databricks(host_provider_name, service_provider_name, service_name) as is_databricks,
    charge_category = 'Usage' as is_usage,
    (billed_nanoseconds > 0 or instance_type is not null) and service_category in ('Compute', 'AI and Machine Learning') as has_machine_time
  from billing_lines
  where billing_period = @period and (resource_key is not null or job_key is not null)
),
billed as (
  select
    source, resource_key, job_key, sub_account_id, region_id, availability_zone,
    case when is_databricks then 'Databricks' else service_provider_name end as service_provider_name,
    -- DBU lines have no time.
    is_usage and (is_databricks or has_machine_time) as is_machine_time,
    false as is_late
  from used
  union all
  select source, resource_key, job_key, sub_account_id, region_id, availability_zone, service_provider_name, is_machine_time, true
  from late_names
),
places as (
  select distinct
    source, case when service_provider_name = 'SLURM' then 'SLURM' else source end as bill, resource_key, job_key, sub_account_id, availability_zone, service_provider_name,
    -- Databricks states the region of the data, not of the cluster.
    case when service_provider_name = 'Databricks' then cast(null as string) else region_id end as region_id,
    is_machine_time, is_late
  from billed
),
short_names as (
  -- All other names are unique, because they contain account and region, or are EC2 instance ids or long numbers.
  select
    resource_key, region_id, sub_account_id, service_provider_name,
    case when starts_with(resource_key, 'k8s://') then availability_zone end as cluster_zone
  from places
  where is_machine_time and service_provider_name not in ('SLURM', 'own')
    and (starts_with(resource_key, 'k8s://') or not regexp_contains(resource_key, r'[/:]|^i-[0-9a-f]{8,}$|^[0-9]{15,}$'))
),
several as (
  select 'machine' as name_kind, resource_key as name
  from places
  where is_machine_time
  group by bill, resource_key
  having min(region_id) <> max(region_id) or min(sub_account_id) <> max(sub_account_id) or min(source) <> max(source)
  union distinct
  select 'machine', resource_key
  from short_names
  group by resource_key
  having min(service_provider_name) <> max(service_provider_name) or min(sub_account_id) <> max(sub_account_id) or min(region_id) <> max(region_id)
    or min(cluster_zone) <> max(cluster_zone)
  union distinct
  select 'job', job_key
  from places
  where is_machine_time
  group by bill, job_key
  having min(region_id) <> max(region_id) or min(sub_account_id) <> max(sub_account_id) or min(source) <> max(source)
),
names as (
  select distinct 'machine' as name_kind, resource_key as name, resource_key as whole_name, is_late from places where resource_key is not null
  union all
  select distinct 'job', job_key, job_key, false from job_windows
  union all
  select distinct 'job', job_key, job_key, true from late_names where job_key is not null
  union all
  select 'job', alias, job_key, false from job_aliases
),
only_workspaces as (
  select min(sub_account_id) as workspace
  from places
  -- On the bill of a cloud, the account of Databricks lines is not a workspace.
  where service_provider_name = 'Databricks' and regexp_contains(sub_account_id, r'^[0-9]+$')
  having min(sub_account_id) = max(sub_account_id)
)
select
  n.name_kind, n.name, logical_or(s.name is not null) as is_several, logical_or(w.workspace is not null) as is_of_only_workspace, logical_and(n.is_late) as is_late
from names n
left join several s on s.name_kind = n.name_kind and s.name = n.whole_name
left join only_workspaces w on w.workspace = regexp_extract(n.name, r'^([0-9]+)/[0-9]+$')
group by n.name_kind, n.name
