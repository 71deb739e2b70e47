-- One FOCUS row per machine and hour of a month, up to the last full hour.
-- `machines`: the time in which each machine exists, and its attributes. `rents`: costs that are spread evenly over a time, in
-- ten-billionths of the currency. `hour_details`: details of single hours of measured machines, which replace those of the machine.
-- The cost of an hour is the amount spent by its end minus the amount spent by its start. So the hours of a rent add up to it exactly.
with hours as (
  select *, unnest(generate_series(present_from, present_until - interval 1 hour, interval 1 hour)) as hour_start
  from machines
),
shares as (
  select
    h.number, h.hour_start, r.units,
    date_diff('hour', r.rent_start, r.rent_end) as rent_hours,
    date_diff('hour', r.rent_start, h.hour_start) as hours_before
  from hours h
  join rents r on r.number = h.number and h.hour_start >= r.rent_start and h.hour_start < r.rent_end
),
spent as (
  -- An amount has at most 28 digits. Ten of them are decimals.
  select number, hour_start, cast(sum(units * (hours_before + 1) // rent_hours - units * hours_before // rent_hours) as decimal(28, 0)) as units
  from shares
  group by number, hour_start
),
priced as (
  select
    h.* exclude (sku_price_details),
    coalesce(d.sku_price_details, h.sku_price_details) as sku_price_details,
    coalesce(s.units, 0) * cast(0.0000000001 as decimal(10, 10)) as cost
  from hours h
  left join spent s on s.number = h.number and s.hour_start = h.hour_start
  left join hour_details d on d.number = h.number and d.hour_start = h.hour_start
)
select
  cost as BilledCost,
  cost as EffectiveCost,
  cost as ListCost,
  cost as ContractedCost,
  getvariable('currency') as BillingCurrency,
  getvariable('bill') as BillingAccountId,
  account as SubAccountId,
  strftime(getvariable('month_start'), '%Y-%m-%dT%H:%M:%SZ') as BillingPeriodStart,
  strftime(getvariable('month_end'), '%Y-%m-%dT%H:%M:%SZ') as BillingPeriodEnd,
  strftime(hour_start, '%Y-%m-%dT%H:%M:%SZ') as ChargePeriodStart,
  strftime(hour_start + interval 1 hour, '%Y-%m-%dT%H:%M:%SZ') as ChargePeriodEnd,
  'Usage' as ChargeCategory,
  'Usage-Based' as ChargeFrequency,
  'Standard' as PricingCategory,
  -- This bill is never corrected later. Every line has an invoice number, so a month is final when it is over.
  getvariable('bill') || '-' || strftime(getvariable('month_start'), '%Y-%m') as InvoiceId,
  'own' as InvoiceIssuerName,
  'own' as ServiceProviderName,
  'own' as HostProviderName,
  'Own machines' as ServiceName,
  'Compute' as ServiceCategory,
  resource_id as ResourceId,
  'Machine' as ResourceType,
  region as RegionId,
  sku_price_details as SkuPriceDetails,
  '1' as ConsumedQuantity,
  'Hours' as ConsumedUnit,
  tags as Tags
from priced
order by resource_id, hour_start
