-- one row per machine whose lines have the id of a run, are in a pool, or have an instance type that runs ask for
select distinct l.resource_key
from billing_lines l
left join machine_types t on t.resource_key = l.resource_key
left join wanted_types w on w.instance_type = coalesce(lower(l.instance_type), t.instance_type)
where l.billing_period = @period and l.resource_key is not null and (l.run_tag is not null or l.pool_key is not null or w.instance_type is not null)
union distinct
select e.resource_key
from earlier_properties e
join wanted_types w on w.instance_type = e.instance_type
