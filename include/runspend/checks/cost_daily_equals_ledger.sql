-- rows: bill and currency where cost_daily and the ledger differ
with ledger as (
  select source, billing_currency, coalesce(sum(list_cost), bignumeric '0') as list_cost, coalesce(sum(contracted_cost), bignumeric '0') as contracted_cost, coalesce(sum(effective_cost), bignumeric '0') as effective_cost, coalesce(sum(billed_cost), bignumeric '0') as billed_cost
  from cost_allocations
  where billing_period = @period
  group by source, billing_currency
),
summed as (
  select source, billing_currency, coalesce(sum(list_cost), bignumeric '0') as list_cost, coalesce(sum(contracted_cost), bignumeric '0') as contracted_cost, coalesce(sum(effective_cost), bignumeric '0') as effective_cost, coalesce(sum(billed_cost), bignumeric '0') as billed_cost
  from cost_daily
  where billing_period = @period
  group by source, billing_currency
)
select
  coalesce(l.source, s.source) as source, coalesce(l.billing_currency, s.billing_currency) as billing_currency,
  l.effective_cost as ledger_effective_cost, s.effective_cost as summed_effective_cost,
  coalesce(s.effective_cost, bignumeric '0') - coalesce(l.effective_cost, bignumeric '0') as effective_difference,
  coalesce(s.billed_cost, bignumeric '0') - coalesce(l.billed_cost, bignumeric '0') as billed_difference
from ledger l
full outer join summed s on s.source = l.source and s.billing_currency = l.billing_currency
where l.source is null or s.source is null
  or s.list_cost <> l.list_cost or s.contracted_cost <> l.contracted_cost or s.effective_cost <> l.effective_cost or s.billed_cost <> l.billed_cost
