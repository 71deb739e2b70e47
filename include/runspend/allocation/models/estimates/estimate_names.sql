-- one row per name of a machine or job on the bills used for estimates. is_several: one bill has the machine in several accounts or regions.
with several as (
  select distinct resource_key
  from estimate_seen
  where is_machine_time
  group by source, resource_key
  having min(first_region) <> max(last_region) or min(account) <> max(account)
)
select 'machine' as name_kind, n.resource_key as name, s.resource_key is not null as is_several, false as is_of_only_workspace, false as is_late
from (select distinct resource_key from estimate_seen) n
left join several s on s.resource_key = n.resource_key
union all
select distinct 'job' as name_kind, job_key as name, false as is_several, false as is_of_only_workspace, false as is_late
from billing_lines
where billing_period >= @first_period and job_key is not null
