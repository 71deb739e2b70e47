-- rows: bill, period and currency where the ledger and the bill differ in any of the four costs
with bill as (
  select
    source, billing_currency,
    coalesce(sum(list_cost), bignumeric '0') as list_cost, coalesce(sum(contracted_cost), bignumeric '0') as contracted_cost,
    coalesce(sum(effective_cost), bignumeric '0') as effective_cost, coalesce(sum(billed_cost), bignumeric '0') as billed_cost
  from billing_lines
  where billing_period = @period
  group by source, billing_currency
),
ledger as (
  select
    source, billing_currency,
    coalesce(sum(list_cost), bignumeric '0') as list_cost, coalesce(sum(contracted_cost), bignumeric '0') as contracted_cost,
    coalesce(sum(effective_cost), bignumeric '0') as effective_cost, coalesce(sum(billed_cost), bignumeric '0') as billed_cost
  from cost_allocations
  where billing_period = @period
  group by source, billing_currency
)
select
  coalesce(b.source, l.source) as source, coalesce(b.billing_currency, l.billing_currency) as billing_currency,
  b.effective_cost as bill_effective_cost, l.effective_cost as ledger_effective_cost,
  coalesce(l.list_cost, bignumeric '0') - coalesce(b.list_cost, bignumeric '0') as list_difference,
  coalesce(l.contracted_cost, bignumeric '0') - coalesce(b.contracted_cost, bignumeric '0') as contracted_difference,
  coalesce(l.effective_cost, bignumeric '0') - coalesce(b.effective_cost, bignumeric '0') as effective_difference,
  coalesce(l.billed_cost, bignumeric '0') - coalesce(b.billed_cost, bignumeric '0') as billed_difference
from bill b
full outer join ledger l on l.source = b.source and l.billing_currency = b.billing_currency
where b.source is null or l.source is null
  or l.list_cost <> b.list_cost or l.contracted_cost <> b.contracted_cost or l.effective_cost <> b.effective_cost or l.billed_cost <> b.billed_cost
