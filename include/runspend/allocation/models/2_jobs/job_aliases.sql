-- one row per other name of a job of the bill, in full, and the job
-- The tasks of a Databricks job have IDs of their own, which their runs state. The bill only has the job run's ID, and lists theirs.
with named as (
  select distinct job_key, json_value(tags, '$."runspend.job_aliases"') as aliases
  from billing_lines
  where billing_period = @period and job_key is not null and strpos(tags, '"runspend.job_aliases"') > 0
)
select
  -- In the workspace of the job run, if its name says which.
  lower(concat(coalesce(regexp_extract(job_key, r'^([^/]+/)[0-9]+$'), ''), alias)) as alias,
  min(job_key) as job_key
from named
cross join unnest(split(aliases, ' ')) as alias
group by lower(concat(coalesce(regexp_extract(job_key, r'^([^/]+/)[0-9]+$'), ''), alias))
