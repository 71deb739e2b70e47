-- One row per billing period and month of the charge date, for the charges of these resources. A viewer may see the idle time of a machine
-- without all its bill lines. So these rows may include days on which the viewer sees no bill line.
select
  billing_period, cast(date_trunc(charge_date, month) as date) as charge_month, min(charge_date) as first_date, max(charge_date) as last_date
from cost_allocations
where resource_id in unnest(@resources) and allocated_to <> 'out_of_scope'
group by billing_period, charge_month
order by billing_period, charge_month
