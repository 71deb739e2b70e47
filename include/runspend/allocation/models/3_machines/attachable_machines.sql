-- one row per machine that charges of other resources name as the one they are attached to, and that runs, their jobs, a run tag, a pool or an
-- instance type may use. The column is not called `resource_key` because such a charge may be in another shard of machines.
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
  select l.resource_key
  from billing_lines l
  join named n on n.attached_to = l.resource_key
  left join machine_types t on t.resource_key = l.resource_key
  left join wanted_types w on w.instance_type = coalesce(lower(l.instance_type), t.instance_type)
  where l.billing_period = @period and (l.run_tag is not null or l.pool_key is not null or w.instance_type is not null)
)
select n.attached_to
from named n
join machines m on m.resource_key = n.attached_to
