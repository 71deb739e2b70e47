-- The prices of `rates.prices`, as rows like those of `hour_prices.sql`. An empty region or purchase option means any.
select
  instance_type, coalesce(region_id, '') as region, billing_currency as currency, cast(cast(hour_price as string) as float64) as hour_cost,
  case when coalesce(pricing_category, '') = '' then '' when pricing_category = 'Dynamic' then 'spot' else 'on_demand' end as purchase_option
from price_list
order by instance_type, region, purchase_option, currency
