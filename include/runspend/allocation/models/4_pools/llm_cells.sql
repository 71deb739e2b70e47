-- one row per day and cloud with lines of language models: their list price
with windows as (
  select
    llm_cloud, window_start, window_end, min(billing_currency) as first_currency, max(billing_currency) as last_currency,
    cast(cast(coalesce(sum(list_cost), bignumeric '0') as string) as float64) as list_float
  from llm_candidates
  group by llm_cloud, window_start, window_end
),
pieces as (
  -- If a charge period crosses midnight, each day gets a part of its price.
  select
    llm_cloud, day, first_currency, last_currency,
    list_float * (
      timestamp_diff(least(window_end, timestamp(date_add(day, interval 1 day))), greatest(window_start, timestamp(day)), microsecond)
      / timestamp_diff(window_end, window_start, microsecond)) as day_float
  from windows
  cross join unnest(generate_date_array(date(window_start), date(timestamp_sub(window_end, interval 1 microsecond)))) as day
)
select llm_cloud, day, min(first_currency) as first_currency, max(last_currency) as last_currency, sum(exact_money(day_float)) as list_cost
from pieces
group by llm_cloud, day
