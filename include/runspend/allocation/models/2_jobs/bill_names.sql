-- one row per name of a machine or job on the period's bills.
select distinct 'machine' as thing, resource_key as name
from billing_lines
where billing_period = @period and resource_key is not null
union all
select distinct 'job' as thing, job_key as name
from job_windows
