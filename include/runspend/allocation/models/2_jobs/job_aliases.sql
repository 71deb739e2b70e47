-- one row per other name of a job on the bill, in full, and the job
-- The tasks of a Databricks job have their own ids, which runs state. The bill has only the id of the job run, and lists the ids of its tasks.
with named as (
  select distinct job_key, json_value(tags, '$."runspend.job_aliases"') as aliases
  from billing_lines
  where billing_period = @period and job_key is not null and strpos(tags, '"runspend.job_aliases"') > 0
)
select
  -- In the workspace of the job run, if the name contains one.
  lower(concat(coalesce(regexp_extract(job_key, r'^([^/]+/)[0-9]+$'), ''), alias)) as alias,
  min(job_key) as job_key
from named
cross join unnest(split(aliases, ' ')) as alias
group by lower(concat(coalesce(regexp_extract(job_key, r'^([^/]+/)[0-9]+$'), ''), alias))
