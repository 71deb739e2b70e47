-- One row per delivered FOCUS row, with its first error. Reads the view `delivered`, whose columns have the names of the warehouse.
-- This SQL is for files that the fast reader cannot read, because it accepts only files without errors.
with named as (
  select
    *,
    billing_currency as currency_text,
    upper(trim(billing_currency)) as currency_code,
    service_provider_name as stated_service_provider
  from delivered
),
judged as (
  select
    * exclude (billing_currency, service_provider_name, host_provider_name),
    currency_code as billing_currency,
    service_provider(stated_service_provider, provider_name, publisher_name) as service_provider_name,
    host_provider(host_provider_name, stated_service_provider, provider_name) as host_provider_name,
    case
      when not is_plausible(billing_period_start)
        then unreadable('BillingPeriodStart', billing_period_start_text, 'a UTC time such as 2026-10-01T00:00:00Z')
      when not is_plausible(billing_period_end)
        then unreadable('BillingPeriodEnd', billing_period_end_text, 'a UTC time such as 2026-11-01T00:00:00Z')
      when not is_plausible(charge_period_start)
        then unreadable('ChargePeriodStart', charge_period_start_text, 'a UTC time such as 2026-10-01T00:00:00Z')
      when not is_plausible(charge_period_end)
        then unreadable('ChargePeriodEnd', charge_period_end_text, 'a UTC time such as 2026-10-01T01:00:00Z')
      when currency_code is null or not is_currency(currency_code)
        then unreadable('BillingCurrency', currency_text, 'an ISO 4217 code such as USD')
      when billed_cost is null or contains(billed_cost_text, '_')
        then unreadable('BilledCost', billed_cost_text, 'a plain decimal number')
    end as reject_reason,
    case
      when length(billed_cost_text) - instr(billed_cost_text, '.') > 22 or contains(lower(billed_cost_text), 'e') then billed_cost_text
    end as long_billed_cost
  from named
)
select
  * exclude (
    provider_name, publisher_name, currency_text, currency_code, stated_service_provider, billed_cost_text,
    billing_period_start_text, billing_period_end_text, charge_period_start_text, charge_period_end_text, raw
  ),
  month_of(billing_period_start) as billing_period,
  case when reject_reason is not null then raw end as raw
from judged
