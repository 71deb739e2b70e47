-- one row per attachment key of machines that no run states, and charge period in which runs of a pool or an instance type may have one of them
select distinct k.target_key, f.charge_period_start, f.charge_period_end
from followed_machines f
join attach_keys k on k.resource_key = f.resource_key
