-- rows: bill, period and currency where the lines and what the load counted differ
with loads as (
  select source, billing_currency, billed_cost
  from billing_loads
  where billing_period = @period and state = 'current' and billing_currency <> ''
),
lines as (
  select source, billing_currency, sum(billed_cost) as billed_cost
  from billing_lines
  where billing_period = @period
  group by source, billing_currency
)
select
  coalesce(l.source, o.source) as source, coalesce(l.billing_currency, o.billing_currency) as billing_currency,
  l.billed_cost as lines_billed_cost, o.billed_cost as load_billed_cost
from lines l
full outer join loads o on o.source = l.source and o.billing_currency = l.billing_currency
where l.source is null or o.source is null or l.billed_cost <> o.billed_cost
