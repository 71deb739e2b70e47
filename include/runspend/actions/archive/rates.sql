-- One row per resource, billing period and currency: what keeping bytes there cost, and over how many days.
select
  resource_key,
  billing_period,
  billing_currency,
  sum(effective_cost) as effective_cost,
  count(distinct charge_date) as day_count,
  max(timestamp_diff(charge_period_end, charge_period_start, microsecond)) as longest_microseconds
from billing_lines
where service_category = 'Storage'
  and charge_category = 'Usage'
  and resource_key is not null
  and billing_period >= @since
  and regexp_contains(lower(coalesce(consumed_unit, pricing_unit, 'gb-mo')), '(byte|[kmgtp]i?b)s?[-/ *]*(mo|h|d)')
group by resource_key, billing_period, billing_currency
