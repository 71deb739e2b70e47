-- one row per attachment key of machines that no run states, and charge period in which runs of a pool or an instance type may have one of them.
-- A line that names its machine also has the other charge periods of that machine: there, the machine's time goes to no run.
select k.target_key, f.charge_period_start, f.charge_period_end, logical_or(f.is_reached) as is_reached
from followed_machines f
join attach_keys k on k.resource_key = f.resource_key
where f.is_reached or starts_with(k.target_key, 'machine|')
group by k.target_key, f.charge_period_start, f.charge_period_end
