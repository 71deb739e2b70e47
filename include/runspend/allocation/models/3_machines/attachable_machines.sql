-- one row per machine to which charges of other resources are attached by name, and which runs, their jobs, a run tag, a pool or an instance
-- type may use; or its Azure scale set.
-- The column is not named `resource_key`, because such a charge may be in another shard than the machine.
with named as (
  select distinct attached_to from billing_lines where billing_period = @period and attached_to is not null
),
machines as (
  select resource_key from known_machines
  union distinct
  select j.resource_key
  from job_machines j
  join (select distinct job_key, life from job_lives) l on l.job_key = j.job_key and l.life = j.life
  union distinct
  select resource_key from usable_machines
),
names as (
  select resource_key from machines
  union distinct
  select scale_set_of(resource_key) from machines
)
select n.attached_to
from named n
join names m on m.resource_key = n.attached_to
