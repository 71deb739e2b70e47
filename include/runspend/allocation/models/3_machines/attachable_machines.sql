-- one row per machine that serves runs or their jobs and that charges of other resources name as the one they are attached to.
-- The column is not called `resource_key` because such a charge may be in another shard of machines.
select distinct m.resource_key as attached_to
from (
  select resource_key from known_machines
  union distinct
  select j.resource_key
  from job_machines j
  join (select distinct job_key, life from job_lives) l on l.job_key = j.job_key and l.life = j.life
) m
join (select distinct attached_to from billing_lines where billing_period = @period and attached_to is not null) l on l.attached_to = m.resource_key
