-- one row per bill, account, machine, currency and charge period since @lines_from: the cost and the billed time.
-- Only machines like those with hours to estimate.
with open_types as (
  -- Only machines with hours to estimate need a price.
  select distinct s.machine_type
  from estimate_seen s
  join estimate_open o on o.resource_key = s.resource_key
  union distinct
  select instance_type from estimate_open where instance_type is not null
),
wanted as (
  select distinct s.source, s.resource_key, s.instance_type, s.machine_type, s.machine_gpus
  from estimate_seen s
  join open_types t on t.machine_type = s.machine_type
),
recent as (
  select
    source, coalesce(sub_account_id, billing_account_id, '') as account, resource_key, resource_id, charge_period_start, charge_period_end,
    billing_currency, coalesce(region_id, '') as region_id, pricing_category, charge_category, coalesce(sku_id, '') as sku_id, billed_nanoseconds,
    list_cost, contracted_cost, effective_cost, billed_cost
  from billing_lines
  where billing_period >= @first_period and charge_period_end > @lines_from and charge_period_start < @now
    and charge_period_end > charge_period_start and at_most_a_day(charge_period_start, charge_period_end)
    and resource_key is not null and charge_class is null and charge_category not in ('Purchase', 'Tax')
    and not is_unused(commitment_discount_status, capacity_reservation_status) and strpos(lower(coalesce(service_name, '')), 'support') = 0
),
skus as (
  select
    r.source, r.account, r.resource_key, r.charge_period_start, r.charge_period_end, r.billing_currency, r.sku_id,
    max(r.resource_id) as resource_id, max(r.region_id) as region_id,
    max(case when r.charge_category = 'Usage' then r.pricing_category end) as pricing_category,
    countif(r.charge_category = 'Usage') as usage_lines,
    nullif(greatest(sum(case when r.charge_category = 'Usage' then r.billed_nanoseconds end), 0), 0) as billed_nanoseconds,
    sum(r.list_cost) as list_cost, sum(r.contracted_cost) as contracted_cost, sum(r.effective_cost) as effective_cost, sum(r.billed_cost) as billed_cost
  from recent r
  join wanted w on w.source = r.source and w.resource_key = r.resource_key
  group by r.source, r.account, r.resource_key, r.charge_period_start, r.charge_period_end, r.billing_currency, r.sku_id
),
windows as (
  select
    source, account, resource_key, charge_period_start, charge_period_end, billing_currency,
    max(resource_id) as resource_id, max(region_id) as region_id, coalesce(max(pricing_category), '') as pricing_category,
    sum(usage_lines) > 0 as is_usage, max(billed_nanoseconds) as billed_nanoseconds,
    timestamp_diff(charge_period_end, charge_period_start, microsecond) * 1000 as window_nanoseconds,
    sum(list_cost) as list_cost, sum(contracted_cost) as contracted_cost, sum(effective_cost) as effective_cost, sum(billed_cost) as billed_cost
  from skus
  group by source, account, resource_key, charge_period_start, charge_period_end, billing_currency
)
select
  v.source, v.account, v.resource_key, v.resource_id, v.charge_period_start, v.charge_period_end, v.billing_currency,
  w.instance_type, w.machine_type, v.region_id, v.pricing_category, v.is_usage, w.machine_gpus,
  cast(machine_time(v.billed_nanoseconds, v.window_nanoseconds) as int64) as billed_nanoseconds,
  v.list_cost, v.contracted_cost, v.effective_cost, v.billed_cost
from windows v
join wanted w on w.source = v.source and w.resource_key = v.resource_key
