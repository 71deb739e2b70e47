-- Delivered FOCUS rows, already matched by name (view `delivered`), into `staged`: one row per delivered row.
-- FOCUS 1.0 to 1.2 name the seller in ProviderName and PublisherName; later versions in ServiceProviderName and
-- HostProviderName. Bought from a cloud, both are the cloud; bought through one, the vendor is the publisher.
insert into staged by name
with named as (
  select
    *,
    billing_currency as currency_text,
    upper(trim(billing_currency)) as currency_code,
    service_provider_name as stated_service_provider,
    host_provider_name as stated_host_provider
  from delivered
),
judged as (
  select
    * exclude (billing_currency, service_provider_name, host_provider_name),
    currency_code as billing_currency,
    case
      when stated_service_provider is not null then stated_service_provider
      when publisher_name is null or publisher_name = provider_name then provider_name
      when provider_family(publisher_name) = provider_family(provider_name) then provider_name
      else coalesce(publisher_name, provider_name)
    end as service_provider_name,
    coalesce(stated_host_provider, case when stated_service_provider is null then provider_name end) as host_provider_name,
    case
      when not is_plausible(billing_period_start)
        then unreadable('BillingPeriodStart', billing_period_start_text, 'a UTC time such as 2026-10-01T00:00:00Z')
      when not is_plausible(billing_period_end)
        then unreadable('BillingPeriodEnd', billing_period_end_text, 'a UTC time such as 2026-11-01T00:00:00Z')
      when not is_plausible(charge_period_start)
        then unreadable('ChargePeriodStart', charge_period_start_text, 'a UTC time such as 2026-10-01T00:00:00Z')
      when not is_plausible(charge_period_end)
        then unreadable('ChargePeriodEnd', charge_period_end_text, 'a UTC time such as 2026-10-01T01:00:00Z')
      when currency_code is null or currency_code not in (select code from currencies)
        then unreadable('BillingCurrency', currency_text, 'an ISO 4217 code such as USD')
      when billed_cost is null or contains(billed_cost_text, '_')
        then unreadable('BilledCost', billed_cost_text, 'a plain decimal number')
    end as trouble,
    case
      when length(billed_cost_text) - instr(billed_cost_text, '.') > 22 or contains(lower(billed_cost_text), 'e') then billed_cost_text
    end as long_billed_cost
  from named
)
select
  * exclude (
    provider_name, publisher_name, currency_text, currency_code, stated_service_provider, stated_host_provider, billed_cost_text,
    billing_period_start_text, billing_period_end_text, charge_period_start_text, charge_period_end_text, raw
  ),
  month_of(billing_period_start) as billing_period,
  hash(sku_price_details, resource_type, delivered_instance_type) as machine_key,
  hash(
    availability_zone, billed_cost, billing_account_id, billing_account_name, billing_account_type, billing_currency,
    billing_period_end, billing_period_start, capacity_reservation_id, capacity_reservation_status, charge_category, charge_class,
    charge_description, charge_frequency, charge_period_end, charge_period_start, commitment_discount_category,
    commitment_discount_id, commitment_discount_name, commitment_discount_quantity, commitment_discount_status,
    commitment_discount_type, commitment_discount_unit, consumed_quantity, consumed_unit, contracted_cost, contracted_unit_price,
    effective_cost, host_provider_name, invoice_detail_id, invoice_id, invoice_issuer_name, list_cost, list_unit_price,
    pricing_category, pricing_currency, pricing_currency_contracted_unit_price, pricing_currency_effective_cost,
    pricing_currency_list_unit_price, pricing_quantity, pricing_unit, region_id, region_name, resource_id, resource_name,
    resource_type, service_category, service_name, service_provider_name, service_subcategory, sku_id, sku_meter,
    sku_price_details, sku_price_id, sub_account_id, sub_account_name, sub_account_type, tags, allocated_method_id,
    allocated_method_details, allocated_resource_id, allocated_resource_name, allocated_tags, contract_applied,
    commitment_program_eligibility_details
  ) as row_hash,
  case when trouble is not null then raw end as raw
from judged;
