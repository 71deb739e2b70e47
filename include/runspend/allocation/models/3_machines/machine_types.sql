-- one row per machine whose charges state exactly one instance type, if it serves runs or runs ask for this type.
select l.resource_key, lower(min(l.instance_type)) as instance_type
from billing_lines l
left join (select distinct resource_key from known_machines) k on k.resource_key = l.resource_key
left join wanted_types w on w.instance_type = lower(l.instance_type)
where l.billing_period = @period and l.instance_type is not null and l.resource_key is not null
group by l.resource_key
having lower(min(l.instance_type)) = lower(max(l.instance_type)) and logical_or(k.resource_key is not null or w.instance_type is not null)
