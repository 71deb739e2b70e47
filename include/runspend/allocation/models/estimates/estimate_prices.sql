-- one row per bill, machine type, region and purchase option ('*': any): the median price of an hour in the last 30 billed days
with asked_types as (
  select distinct instance_type as machine_type from estimate_open where instance_type is not null
),
hours as (
  select
    w.source, w.machine_type, w.region_id, w.pricing_category, w.billing_currency,
    cast(cast(w.list_cost as string) as float64) / (w.billed_nanoseconds / 3600000000000.0) as list_float,
    cast(cast(w.contracted_cost as string) as float64) / (w.billed_nanoseconds / 3600000000000.0) as contracted_float,
    cast(cast(w.effective_cost as string) as float64) / (w.billed_nanoseconds / 3600000000000.0) as effective_float,
    cast(cast(w.billed_cost as string) as float64) / (w.billed_nanoseconds / 3600000000000.0) as billed_float
  from estimate_windows w
  join estimate_frontiers f on f.source = w.source and f.part = concat('account ', w.account)
  where w.is_usage and w.billed_nanoseconds > 0 and w.effective_cost is not null
    and w.charge_period_end <= f.billed_until and w.charge_period_start >= timestamp_sub(f.billed_until, interval 30 day)
),
grains as (
  select source, machine_type, region_id, pricing_category, billing_currency, list_float, contracted_float, effective_float, billed_float from hours
  union all
  -- For machines that are not on any bill yet.
  select h.source, h.machine_type, '*', '*', h.billing_currency, h.list_float, h.contracted_float, h.effective_float, h.billed_float
  from hours h
  join asked_types a on a.machine_type = h.machine_type
),
ranked as (
  select
    source, machine_type, region_id, pricing_category, billing_currency, list_float, contracted_float, effective_float, billed_float,
    row_number() over (partition by source, machine_type, region_id, pricing_category, billing_currency order by list_float) as list_place,
    row_number() over (partition by source, machine_type, region_id, pricing_category, billing_currency order by contracted_float) as contracted_place,
    row_number() over (partition by source, machine_type, region_id, pricing_category, billing_currency order by effective_float) as effective_place,
    row_number() over (partition by source, machine_type, region_id, pricing_category, billing_currency order by billed_float) as billed_place,
    div(count(*) over (partition by source, machine_type, region_id, pricing_category, billing_currency) + 1, 2) as middle
  from grains
),
medians as (
  -- Of two middle values, the lower one is used, because it is a price that was charged.
  select
    source, machine_type, region_id, pricing_category, billing_currency,
    max(case when list_place = middle then list_float end) as list_float,
    max(case when contracted_place = middle then contracted_float end) as contracted_float,
    max(case when effective_place = middle then effective_float end) as effective_float,
    max(case when billed_place = middle then billed_float end) as billed_float
  from ranked
  group by source, machine_type, region_id, pricing_category, billing_currency
)
select
  source, machine_type, region_id, pricing_category, billing_currency,
  -- A price has at most twelve decimals.
  price_money(list_float) as list_cost,
  price_money(contracted_float) as contracted_cost,
  price_money(effective_float) as effective_cost,
  price_money(billed_float) as billed_cost
from medians
qualify row_number() over (partition by source, machine_type, region_id, pricing_category order by billing_currency) = 1
