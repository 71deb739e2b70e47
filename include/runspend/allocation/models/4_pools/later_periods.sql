-- one row per attachment key of machines that no run states, and charge period in which runs of a pool or an instance type may use one of them.
-- The key of a single machine also has the machine's other charge periods, in which its time goes to no run.
select k.target_key, f.charge_period_start, f.charge_period_end, logical_or(f.is_reached) as is_reached
from followed_machines f
join attach_keys k on k.resource_key = f.resource_key
where f.is_reached or starts_with(k.target_key, 'machine|')
group by k.target_key, f.charge_period_start, f.charge_period_end
