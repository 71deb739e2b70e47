-- What an hour of a machine cost on the bills since @since: the median by type, region, purchase option and currency.
-- A machine's lines of one hour add up. The lower of two middle values: a price that was charged, not one in between.
with machine_hours as (
  select
    lower(instance_type) as instance_type, lower(coalesce(region_id, '')) as region, billing_currency,
    case when pricing_category = 'Dynamic' then 'spot' else 'on_demand' end as purchase_option,
    max(machine_gpus) as gpus, sum(effective_cost) as cost,
    timestamp_diff(charge_period_end, charge_period_start, microsecond) as microseconds
  from billing_lines
  where billing_period >= date_trunc(date(@since), month) and charge_period_start >= @since and charge_period_end <= @now
    and instance_type is not null and resource_key is not null and charge_category = 'Usage' and charge_class is null
    and charge_period_end > charge_period_start and timestamp_diff(charge_period_end, charge_period_start, microsecond) <= 90000000000
  group by source, resource_key, charge_period_start, charge_period_end, lower(instance_type), lower(coalesce(region_id, '')), billing_currency,
    case when pricing_category = 'Dynamic' then 'spot' else 'on_demand' end
),
priced as (
  select
    instance_type, region, billing_currency, purchase_option, gpus, microseconds,
    cast(cast(cost as string) as float64) * 3600000000 / microseconds as hour_cost
  from machine_hours
  where cost > 0
),
ranked as (
  select
    instance_type, region, billing_currency, purchase_option, gpus, microseconds, hour_cost,
    row_number() over (partition by instance_type, region, billing_currency, purchase_option order by hour_cost) as place,
    div(count(*) over (partition by instance_type, region, billing_currency, purchase_option) + 1, 2) as middle
  from priced
)
select
  instance_type, region, purchase_option, billing_currency as currency, max(gpus) as gpus, sum(microseconds) / 3600000000 as machine_hours,
  max(case when place = middle then hour_cost end) as hour_cost
from ranked
group by instance_type, region, purchase_option, billing_currency
order by instance_type, region, purchase_option, currency
