-- one row per machine that serves runs and whose charges state exactly one instance type.
select l.resource_key, lower(min(l.instance_type)) as instance_type
from billing_lines l
join (select distinct resource_key from known_machines) k on k.resource_key = l.resource_key
where l.billing_period = @period and l.instance_type is not null
group by l.resource_key
having lower(min(l.instance_type)) = lower(max(l.instance_type))
