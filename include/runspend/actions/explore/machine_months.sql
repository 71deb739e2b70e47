-- One row per billing period of charges of these resources, and month in which the charges start. A reader who sees the idle time of
-- a machine but not all its bill lines has days here that the lines do not have.
select
  billing_period, cast(date_trunc(charge_date, month) as date) as charge_month, min(charge_date) as first_date, max(charge_date) as last_date
from cost_allocations
where resource_id in unnest(@resources) and allocated_to <> 'out_of_scope'
group by billing_period, charge_month
order by billing_period, charge_month
