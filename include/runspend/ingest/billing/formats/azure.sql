-- One row per delivered row of an Azure cost export, of actual cost or of amortized cost (getvariable('is_amortized')).
with service_categories(meter, category, subcategory) as (
  values
    ('virtual machines', 'Compute', 'Virtual Machines'),
    ('virtual machines licenses', 'Compute', 'Virtual Machines'),
    ('virtual machine licenses', 'Compute', 'Virtual Machines'),
    ('azure kubernetes service', 'Compute', 'Containers'),
    ('container instances', 'Compute', 'Containers'),
    ('azure container apps', 'Compute', 'Containers'),
    ('container registry', 'Compute', 'Containers'),
    ('azure red hat openshift', 'Compute', 'Containers'),
    ('functions', 'Compute', 'Serverless Compute'),
    ('azure functions', 'Compute', 'Serverless Compute'),
    ('azure app service', 'Compute', 'Other (Compute)'),
    ('batch', 'Compute', 'Other (Compute)'),
    ('cloud services', 'Compute', 'Other (Compute)'),
    ('azure quantum', 'Compute', 'Quantum Compute'),
    ('storage', 'Storage', null),
    ('backup', 'Storage', null),
    ('azure netapp files', 'Storage', null),
    ('azure data lake storage', 'Storage', null),
    ('data lake store', 'Storage', null),
    ('bandwidth', 'Networking', null),
    ('rtn preference: mgn', 'Networking', null),
    ('virtual network', 'Networking', null),
    ('virtual network private link', 'Networking', null),
    ('load balancer', 'Networking', null),
    ('nat gateway', 'Networking', null),
    ('vpn gateway', 'Networking', null),
    ('expressroute', 'Networking', null),
    ('application gateway', 'Networking', null),
    ('azure firewall', 'Networking', null),
    ('azure front door service', 'Networking', null),
    ('azure dns', 'Networking', null),
    ('traffic manager', 'Networking', null),
    ('content delivery network', 'Networking', null),
    ('azure machine learning', 'AI and Machine Learning', 'Machine Learning'),
    ('machine learning studio', 'AI and Machine Learning', 'Machine Learning'),
    ('cognitive services', 'AI and Machine Learning', 'AI Platforms'),
    ('azure ai services', 'AI and Machine Learning', 'AI Platforms'),
    ('azure applied ai services', 'AI and Machine Learning', 'AI Platforms'),
    ('azure openai', 'AI and Machine Learning', 'Generative AI'),
    ('azure openai service', 'AI and Machine Learning', 'Generative AI'),
    ('foundry models', 'AI and Machine Learning', 'Generative AI'),
    ('azure ai foundry', 'AI and Machine Learning', 'Generative AI'),
    ('azure bot service', 'AI and Machine Learning', 'Bots'),
    ('azure cognitive search', 'AI and Machine Learning', 'AI Platforms'),
    ('azure ai search', 'AI and Machine Learning', 'AI Platforms'),
    ('azure databricks', 'Analytics', null),
    ('azure synapse analytics', 'Analytics', null),
    ('microsoft fabric', 'Analytics', null),
    ('hdinsight', 'Analytics', null),
    ('stream analytics', 'Analytics', null),
    ('azure data explorer', 'Analytics', null),
    ('azure analysis services', 'Analytics', null),
    ('power bi', 'Analytics', null),
    ('power bi embedded', 'Analytics', null),
    ('azure data factory', 'Integration', null),
    ('azure data factory v2', 'Integration', null),
    ('event hubs', 'Integration', null),
    ('event grid', 'Integration', null),
    ('service bus', 'Integration', null),
    ('logic apps', 'Integration', null),
    ('api management', 'Integration', null),
    ('sql database', 'Databases', null),
    ('sql managed instance', 'Databases', null),
    ('azure cosmos db', 'Databases', null),
    ('azure database for postgresql', 'Databases', null),
    ('azure database for mysql', 'Databases', null),
    ('redis cache', 'Databases', null),
    ('log analytics', 'Management and Governance', null),
    ('azure monitor', 'Management and Governance', null),
    ('application insights', 'Management and Governance', null),
    ('automation', 'Management and Governance', null),
    ('key vault', 'Security', null),
    ('microsoft defender for cloud', 'Security', null),
    ('security center', 'Security', null),
    ('sentinel', 'Security', null),
    ('azure active directory', 'Identity', null),
    ('azure active directory domain services', 'Identity', null),
    ('microsoft entra id', 'Identity', null),
    ('iot hub', 'Internet of Things', null),
    ('azure devops', 'Developer Tools', null),
    ('notification hubs', 'Mobile', null),
    ('azure site recovery', 'Migration', null),
    ('media services', 'Media', null)
),
-- Exports write days as 2026-02-28, or as 02/28/2026 with the month first in every language. Localized files may also write 28.02.2026,
-- with the day first. The separator shows the order, so the order is never guessed from values. All other strings are quarantined.
dated as (
  select
    * replace (
      coalesce(currency, getvariable('currency')) as currency,
      lower(coalesce(charge_type, 'Usage')) as charge_type,
      lower(replace(coalesce(pricing_model, ''), ' ', '')) as pricing_model
    ),
    coalesce(azure_day(day), case when regexp_full_match(localised_day, '\d\d\.\d\d\.\d{4}') then cast(try_strptime(localised_day, '%d.%m.%Y') as date) end)
      as charge_day,
    azure_day(period_start) as first_day,
    azure_day(period_end) as last_day,
    case when json_valid(json_braces(additional_info)) then json_braces(additional_info) end as details
  from azure
),
-- The size of a block of units, and the unit, from strings such as "100 Hours", "10K", "1/Month" or "1 GB/Month". Each distinct string is
-- parsed once, because many rows share a few strings.
blocks as materialized (
  select
    unit,
    regexp_extract(unit, '^\s*([0-9]+)\s*([KM]?)(|\s+.*|/.*)$', ['size', 'scale', 'name']) as block
  from (select distinct unit from azure where unit is not null)
),
units as materialized (
  select
    unit as unit_text,
    case
      when block.size = '' then cast(1 as decimal(38, 22))
      else block_inverse(try_cast(block.size as bigint) * case block.scale when 'K' then 1000 when 'M' then 1000000 else 1 end)
    end as per_block,
    case
      when block.size = '' then trim(unit)
      when trim(block.name) = '' then 'Units'
      when starts_with(trim(block.name), '/') then 'Units' || trim(block.name)
      else trim(block.name)
    end as single_unit
  from blocks
),
-- Quantities are in single units, prices are for blocks of units. Microsoft: "Quantity in Cost Management is the consumed quantity".
measured as (
  select
    *,
    number(cost) as cost_amount,
    number(quantity) as amount,
    number(payg_price) as payg_amount,
    number(unit_price) as unit_amount,
    -- If no unit is stated, a price is for one unit.
    case when unit is null then cast(1 as decimal(38, 22)) else per_block end as per_unit,
    charge_type in ('usage', 'unusedreservation', 'unusedsavingsplan') as is_usage,
    charge_type in ('unusedreservation', 'unusedsavingsplan') as is_unused,
    charge_type in ('purchase', 'refund') as is_bought,
    coalesce(benefit_id, reservation_id) as commitment_id,
    -- Exports of older agreements leave PricingModel empty. In amortized cost, usage with the id of a commitment is covered by it.
    pricing_model in ('reservation', 'savingsplan') or charge_type in ('unusedreservation', 'unusedsavingsplan')
      or (charge_type in ('purchase', 'refund') and coalesce(benefit_id, reservation_id) is not null)
      or (getvariable('is_amortized') and pricing_model = '' and charge_type = 'usage' and coalesce(benefit_id, reservation_id) is not null)
      as is_committed,
    pricing_currency is null or upper(trim(pricing_currency)) = upper(trim(currency)) as is_priced_in_currency,
    lower(publisher_type) = 'marketplace' as is_marketplace,
    -- Azure writes 0 if it does not know the price.
    nullif(number(payg_cost), 0) as payg_cost_amount
  from dated
  left join units on unit_text = unit
),
-- exact_product uses its arguments many times, and DuckDB computes them once only outside of a case expression. So each product is a
-- separate step, and factors that are not needed are null.
asked as (
  select
    *,
    case when is_usage and not is_unused and is_priced_in_currency and payg_amount > 0 and payg_cost_amount is null then payg_amount end as payg_asked,
    case when is_usage and not is_unused and is_priced_in_currency and unit_amount > 0 and is_committed then unit_amount end as unit_asked
  from measured
),
multiplied as (
  select *, exact_product(payg_asked, amount) as payg_units, exact_product(unit_asked, amount) as unit_units
  from asked
),
priced as (
  select
    *,
    exact_product(amount, per_unit) as blocks_priced,
    exact_product(payg_units, per_unit) as payg_product,
    exact_product(unit_units, per_unit) as unit_product
  from multiplied
)
select
  row_number,
  case when is_unused or (getvariable('is_amortized') and charge_type = 'usage' and is_committed) then '0' else cost end as billed_cost,
  case when getvariable('is_amortized') and is_bought and is_committed then '0' else cost end as effective_cost,
  -- The list cost of a fee is the fee itself. Usage without a known price is free if it costs nothing and no commitment covers it.
  case
    when is_unused then null
    when not is_usage then cost_amount
    when payg_cost_amount is null and payg_product is null and cost_amount = 0 and not is_committed then cost_amount
    else coalesce(payg_cost_amount, payg_product)
  end as list_cost,
  case when is_unused then null when is_usage and is_committed then unit_product else cost_amount end as contracted_cost,
  currency as billing_currency,
  coalesce(billing_account_id, billing_profile_id, subscription_id) as billing_account_id,
  billing_account_name,
  cast(coalesce(first_day, case when period_start is null then date_trunc('month', charge_day) end) as date) as billing_period_start,
  case when period_end is not null then last_day + 1 else cast(date_trunc('month', coalesce(first_day, charge_day)) + interval 1 month as date) end
    as billing_period_end,
  charge_day as charge_period_start,
  charge_day + 1 as charge_period_end,
  case
    when is_usage then 'Usage'
    when is_bought then 'Purchase'
    when charge_type = 'tax' then 'Tax'
    when charge_type = 'credit' then 'Credit'
    else 'Adjustment'
  end as charge_category,
  case when charge_type = 'refund' then 'Correction' end as charge_class,
  coalesce(product, nullif(concat_ws(' - ', meter_subcategory, meter_name), '')) as charge_description,
  case lower(frequency) when 'onetime' then 'One-Time' when 'recurring' then 'Recurring' when 'usagebased' then 'Usage-Based' end as charge_frequency,
  commitment_id as commitment_discount_id,
  coalesce(benefit_name, reservation_name) as commitment_discount_name,
  case
    when pricing_model = 'savingsplan' or charge_type = 'unusedsavingsplan' or contains(lower(benefit_id), '/microsoft.billingbenefits/') then 'Spend'
    when is_committed or reservation_id is not null or contains(lower(benefit_id), '/microsoft.capacity/') then 'Usage'
  end as commitment_discount_category,
  case
    when pricing_model = 'savingsplan' or charge_type = 'unusedsavingsplan' or contains(lower(benefit_id), '/microsoft.billingbenefits/') then 'Savings Plan'
    when is_committed or reservation_id is not null or contains(lower(benefit_id), '/microsoft.capacity/') then 'Reservation'
  end as commitment_discount_type,
  case when is_unused then 'Unused' when is_usage and (is_committed or commitment_id is not null) then 'Used' end
    as commitment_discount_status,
  case when is_usage and not is_unused then quantity end as consumed_quantity,
  case when is_usage and not is_unused and amount is not null then single_unit end as consumed_unit,
  blocks_priced as pricing_quantity,
  unit as pricing_unit,
  case when is_usage and not is_unused and is_priced_in_currency and payg_amount > 0 then payg_amount end as list_unit_price,
  case when is_usage and not is_unused and is_priced_in_currency and unit_amount > 0 then unit_amount end as contracted_unit_price,
  case
    when is_committed then 'Committed'
    -- Low-priority machines are an older form of spot machines. Their pricing model is on demand, but they have their own meters.
    when pricing_model = 'spot' or (is_usage and regexp_matches(meter_name, '(?i)\b(spot|low priority)\b')) then 'Dynamic'
    when pricing_model = 'ondemand' then 'Standard'
  end as pricing_category,
  upper(trim(pricing_currency)) as pricing_currency,
  invoice_id,
  coalesce(partner_name, 'Microsoft') as invoice_issuer_name,
  case when is_marketplace then coalesce(publisher_name, 'Microsoft') else 'Microsoft' end as service_provider_name,
  'Microsoft' as host_provider_name,
  coalesce(nullif(meter_category, 'Unassigned'), consumed_service, publisher_name, meter_category, 'Unassigned') as service_name,
  coalesce(s.category, 'Other') as service_category,
  case when lower(meter_subcategory) like '%openai%' then 'Generative AI' else s.subcategory end as service_subcategory,
  subscription_id as sub_account_id,
  subscription_name as sub_account_name,
  'Subscription' as sub_account_type,
  zone as availability_zone,
  lower(replace(nullif(location, 'Unassigned'), ' ', '')) as region_id,
  nullif(location, 'Unassigned') as region_name,
  case when is_unused then coalesce(resource_id, commitment_id) else resource_id end as resource_id,
  coalesce(details ->> '$.VMName', resource_name, nullif(regexp_extract(resource_id, '[^/]+$'), '')) as resource_name,
  coalesce(resource_type, nullif(regexp_extract(resource_id, '(?i)/providers/([^/]+/[^/]+)/', 1), '')) as resource_type,
  case when is_bought or is_usage then meter_id end as sku_id,
  meter_name as sku_meter,
  json_braces(additional_info) as sku_price_details,
  details ->> '$.ServiceType' as delivered_instance_type,
  json_braces(tags) as tags,
  coalesce(
    case when charge_day is null then unreadable('Date', day, 'a day such as 2026-02-28 or 02/28/2026') end,
    case when period_start is not null and first_day is null then unreadable('BillingPeriodStartDate', period_start, 'a day such as 2026-02-01 or 02/01/2026') end,
    case when period_end is not null and last_day is null then unreadable('BillingPeriodEndDate', period_end, 'a day such as 2026-02-28 or 02/28/2026') end,
    case when cost_amount is null or contains(cost, '_') then unreadable('CostInBillingCurrency', cost, 'a plain decimal number') end
  ) as reject_reason
from priced
left join service_categories s on s.meter = lower(meter_category)
order by row_number
