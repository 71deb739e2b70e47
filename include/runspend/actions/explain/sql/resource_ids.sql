-- One row per spelling of a resource on the bills, billing period, and month in which its charges start.
select
  resource_id, resource_key, billing_period, cast(date_trunc(charge_date, month) as date) as charge_month, min(instance_type) as instance_type,
  min(charge_date) as first_date, max(charge_date) as last_date, count(*) as line_count
from billing_lines
where resource_key = @resource or resource_id = @resource or ends_with(resource_key, concat('/', @resource))
group by resource_id, resource_key, billing_period, charge_month
order by billing_period, resource_id, charge_month
