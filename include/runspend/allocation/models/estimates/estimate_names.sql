-- one row per name of a machine or job on the bills used for estimates
select distinct 'machine' as thing, resource_key as name, false as is_several
from estimate_seen
union all
select distinct 'job' as thing, job_key as name, false as is_several
from billing_lines
where billing_period >= @first_period and job_key is not null
