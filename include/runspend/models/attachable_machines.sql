-- one row per machine that serves runs and that lines of other resources name. Not under `resource_key`: such a line may be in another share of the machines
select distinct m.resource_key as attached_to
from known_machines m
join (select distinct attached_to from billing_lines where billing_period = @period and attached_to is not null) l on l.attached_to = m.resource_key
