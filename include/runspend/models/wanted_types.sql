-- one row per instance type that a run of the window asks for
select distinct lower(instance_type) as instance_type
from window_runs
where instance_type is not null
