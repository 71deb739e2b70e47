-- One row per billing period and instance type (with the other stated properties in `pool_key`): the hours that runs claim of it.
select
  billing_period, pool_key, instance_type, billed_seconds, claimed_seconds, open_seconds, allocated_seconds, claimed_ratio,
  lowest_hour_cost, highest_hour_cost, billing_currency
from instance_type_hours
where billing_period in unnest(@periods)
order by billing_period, pool_key
