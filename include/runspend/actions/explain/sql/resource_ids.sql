-- One row per billing period and spelling of a resource on the bills.
select resource_id, resource_key, billing_period, min(instance_type) as instance_type, min(charge_date) as first_date, max(charge_date) as last_date, count(*) as line_count
from billing_lines
where resource_key = @resource or resource_id = @resource or ends_with(resource_key, concat('/', @resource))
group by resource_id, resource_key, billing_period
order by billing_period, resource_id
