-- one row per bill, machine type, region and purchase option ('*': any): the median price of an hour in the last 30 billed days
with earliest as (
  select min(billed_until) as billed_until from estimate_frontiers
),
open_runs as (
  -- only what still has hours to estimate needs a price
  select w.tracking_server, w.run_id, lower(w.instance_type) as instance_type
  from window_runs w
  cross join earliest e
  where coalesce(w.end_time, @now) > e.billed_until
),
open_machines as (
  select s.resource_key
  from run_resources s
  join open_runs o on o.tracking_server = s.tracking_server and o.run_id = s.run_id
  union distinct
  select s.resource_key
  from run_ancestors a
  join open_runs o on o.tracking_server = a.tracking_server and o.run_id = a.run_id
  join run_resources s on s.tracking_server = a.tracking_server and s.run_id = a.ancestor_id
),
asked_types as (
  select distinct instance_type as machine_type from open_runs where instance_type is not null
),
open_types as (
  select machine_type from asked_types
  union distinct
  select coalesce(w.instance_type, concat('machine ', w.resource_key))
  from (select distinct resource_key, instance_type from estimate_windows) w
  join open_machines o on o.resource_key = w.resource_key
),
hours as (
  select
    w.source, coalesce(w.instance_type, concat('machine ', w.resource_key)) as machine_type, w.region_id, w.pricing_category, w.billing_currency,
    cast(cast(w.list_cost as string) as float64) / (w.billed_nanoseconds / 3600000000000.0) as list_float,
    cast(cast(w.contracted_cost as string) as float64) / (w.billed_nanoseconds / 3600000000000.0) as contracted_float,
    cast(cast(w.effective_cost as string) as float64) / (w.billed_nanoseconds / 3600000000000.0) as effective_float,
    cast(cast(w.billed_cost as string) as float64) / (w.billed_nanoseconds / 3600000000000.0) as billed_float
  from estimate_windows w
  join estimate_frontiers f on f.source = w.source and f.part = concat('account ', w.account)
  join open_types o on o.machine_type = coalesce(w.instance_type, concat('machine ', w.resource_key))
  where w.is_usage and w.billed_nanoseconds > 0 and w.effective_cost is not null
    and w.charge_period_end <= f.billed_until and w.charge_period_start >= timestamp_sub(f.billed_until, interval 30 day)
),
grains as (
  select source, machine_type, region_id, pricing_category, billing_currency, list_float, contracted_float, effective_float, billed_float from hours
  union all
  -- for machines that no bill has shown yet
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
  -- the lower of two middles: a price that was charged, not one in between
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
  -- a price has no more than twelve decimals
  cast(cast(trunc(list_float) as int64) + cast(round((list_float - trunc(list_float)) * 1e12) as int64) * bignumeric '0.000000000001' as bignumeric) as list_cost,
  cast(cast(trunc(contracted_float) as int64) + cast(round((contracted_float - trunc(contracted_float)) * 1e12) as int64) * bignumeric '0.000000000001' as bignumeric) as contracted_cost,
  cast(cast(trunc(effective_float) as int64) + cast(round((effective_float - trunc(effective_float)) * 1e12) as int64) * bignumeric '0.000000000001' as bignumeric) as effective_cost,
  cast(cast(trunc(billed_float) as int64) + cast(round((billed_float - trunc(billed_float)) * 1e12) as int64) * bignumeric '0.000000000001' as bignumeric) as billed_cost
from medians
qualify row_number() over (partition by source, machine_type, region_id, pricing_category order by billing_currency) = 1
