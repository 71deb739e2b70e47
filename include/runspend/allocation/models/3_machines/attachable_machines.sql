-- one row per machine that serves runs or their jobs and that charges of other resources name as the one they are attached to.
-- The column is not called `resource_key` because such a charge may be in another shard of machines.
select distinct m.resource_key as attached_to
from (
  select resource_key from known_machines
  union distinct
  select l.resource_key
  from billing_lines l
  join (select distinct job_key from settled_jobs) j on j.job_key = l.job_key
  where l.billing_period = @period and l.resource_key is not null
) m
join (select distinct attached_to from billing_lines where billing_period = @period and attached_to is not null) l on l.attached_to = m.resource_key
