-- rows: bill, period and currency where the lines and what the load counted differ in any of the four costs
with loads as (
  select
    source, billing_currency,
    coalesce(list_cost, bignumeric '0') as list_cost, coalesce(contracted_cost, bignumeric '0') as contracted_cost,
    coalesce(effective_cost, bignumeric '0') as effective_cost, coalesce(billed_cost, bignumeric '0') as billed_cost
  from billing_loads
  where billing_period = @period and state = 'current' and billing_currency <> ''
),
lines as (
  select
    source, billing_currency,
    coalesce(sum(list_cost), bignumeric '0') as list_cost, coalesce(sum(contracted_cost), bignumeric '0') as contracted_cost,
    coalesce(sum(effective_cost), bignumeric '0') as effective_cost, coalesce(sum(billed_cost), bignumeric '0') as billed_cost
  from billing_lines
  where billing_period = @period
  group by source, billing_currency
)
select
  coalesce(l.source, o.source) as source, coalesce(l.billing_currency, o.billing_currency) as billing_currency,
  l.billed_cost as lines_billed_cost, o.billed_cost as load_billed_cost,
  l.effective_cost as lines_effective_cost, o.effective_cost as load_effective_cost
from lines l
full outer join loads o on o.source = l.source and o.billing_currency = l.billing_currency
where l.source is null or o.source is null
  or l.list_cost <> o.list_cost or l.contracted_cost <> o.contracted_cost or l.effective_cost <> o.effective_cost or l.billed_cost <> o.billed_cost
