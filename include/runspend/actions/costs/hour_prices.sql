-- The cost of one machine hour on the bills since @since: the median by instance type, region, purchase option and currency.
-- The price counts billed time. If a machine was billed for 20 minutes of an hour, its price is three times the cost of its line. If one
-- line has four machines, the price of each is a quarter of the cost. Unused reservations and support are left out.
-- Of two middle values, the lower one is the median: it is a price that was actually charged, not one in between.
with skus as (
  select
    source, resource_key, charge_period_start, charge_period_end, billing_currency,
    max(lower(instance_type)) as instance_type, max(lower(coalesce(region_id, ''))) as region, max(machine_gpus) as gpus,
    max(case when pricing_category = 'Dynamic' then 1 else 0 end) as is_spot, sum(effective_cost) as cost,
    nullif(greatest(sum(billed_nanoseconds), 0), 0) as nanoseconds
  from billing_lines
  where billing_period >= date_trunc(date(@since), month) and charge_period_start >= @since and charge_period_end <= @now
    and instance_type is not null and resource_key is not null and charge_category = 'Usage' and charge_class is null
    and not is_unused(commitment_discount_status, capacity_reservation_status) and strpos(lower(coalesce(service_name, '')), 'support') = 0
    and charge_period_end > charge_period_start and at_most_a_day(charge_period_start, charge_period_end)
  group by source, resource_key, charge_period_start, charge_period_end, billing_currency, coalesce(sku_id, '')
),
machine_hours as (
  select
    max(instance_type) as instance_type, max(region) as region, billing_currency, max(gpus) as gpus, sum(cost) as cost,
    case when max(is_spot) = 1 then 'spot' else 'on_demand' end as purchase_option,
    timestamp_diff(charge_period_end, charge_period_start, microsecond) as window_microseconds, max(nanoseconds) / 1000 as billed_microseconds
  from skus
  group by source, resource_key, charge_period_start, charge_period_end, billing_currency
),
priced as (
  select
    instance_type, region, billing_currency, purchase_option, gpus,
    machine_time(billed_microseconds, window_microseconds) as microseconds,
    cast(cast(cost as string) as float64) * 3600000000 / machine_time(billed_microseconds, window_microseconds) as hour_cost
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
