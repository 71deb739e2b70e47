-- One row per price of a SKU, cloud and unit, with its start and end. A row that is in two files counts once.
-- This is not a format. databricks.py makes it the view databricks_price_list, which databricks.sql joins to usage.
with parts as (
  select
    row_number,
    price_table,
    nullif(trim(account_id), '') as account_id,
    trim(sku_name) as sku_name,
    upper(trim(cloud)) as cloud,
    trim(usage_unit) as usage_unit,
    upper(trim(currency_code)) as currency_code,
    price_start_time,
    price_end_time,
    case when starts_with(price, '{') then try(json_extract_string(price, '$.default')) else price end as price,
    coalesce(effective_price, case when starts_with(price, '{') then try(json_extract_string(price, '$.effective_list.default')) end) as effective_price
  from databricks_prices
),
typed as (
  select
    * exclude (price_table),
    coalesce(price_table, case when effective_price is null then 'account_prices' else 'list_prices' end) as price_table,
    instant(price_start_time) as valid_from,
    instant(price_end_time) as valid_to,
    exact_decimal(price) as default_price,
    exact_decimal(coalesce(effective_price, price)) as effective_list_price
  from parts
),
priced as (
  select distinct on (price_table, account_id, sku_name, cloud, usage_unit, currency_code, valid_from, valid_to, default_price, effective_list_price)
    row_number,
    price_table, account_id, sku_name, cloud, usage_unit, currency_code, valid_from, valid_to, default_price, effective_list_price,
    coalesce(
      case when sku_name is null then unreadable('sku_name', sku_name, 'the name of a SKU') end,
      case when cloud is null then unreadable('cloud', cloud, 'AWS, AZURE or GCP') end,
      case when usage_unit is null then unreadable('usage_unit', usage_unit, 'a unit such as DBU') end,
      case when not is_currency(currency_code) or currency_code is null
        then unreadable('currency_code', currency_code, 'an ISO 4217 code such as USD') end,
      case when not is_plausible(valid_from) then unreadable('price_start_time', price_start_time, 'a UTC time such as 2026-03-01T00:00:00Z') end,
      case when price_end_time is not null and valid_to is null
        then unreadable('price_end_time', price_end_time, 'a UTC time such as 2026-03-01T00:00:00Z, or empty') end,
      case when default_price is null or default_price < 0 then unreadable('pricing.default', price, 'a price of at most 18 decimals') end,
      case when effective_list_price is null or effective_list_price < 0
        then unreadable('pricing.effective_list.default', effective_price, 'a price of at most 18 decimals') end
    ) as reject_reason
  from typed
  order by row_number
)
select *, row_number() over (order by price_table, sku_name, cloud, usage_unit, account_id, valid_from, valid_to, row_number) as number from priced
