-- One row per billing period and pool of the instance types whose machines a run got by type.
select
  billing_period, pool_key, instance_type, billed_seconds, claimed_seconds, open_seconds, allocated_seconds, claimed_ratio,
  lowest_hour_cost, highest_hour_cost, billing_currency
from instance_type_hours
where billing_period in unnest(@periods)
order by billing_period, pool_key
