-- rows: table, bill and currency whose four costs differ from those of its source. The sources are: for bill lines, the sums counted at
-- load; for the ledger, the bill lines; for cost_daily, the ledger; for run_costs_daily, the cost that the ledger allocates to runs.
with lines as (
  select
    source, billing_currency,
    coalesce(sum(list_cost), bignumeric '0') as list_cost, coalesce(sum(contracted_cost), bignumeric '0') as contracted_cost,
    coalesce(sum(effective_cost), bignumeric '0') as effective_cost, coalesce(sum(billed_cost), bignumeric '0') as billed_cost
  from billing_lines
  where billing_period = @period
  group by source, billing_currency
),
charges as (
  -- Reads the largest table only once.
  select
    source, billing_currency, coalesce(allocated_to = 'run', false) as is_of_runs,
    coalesce(sum(list_cost), bignumeric '0') as list_cost, coalesce(sum(contracted_cost), bignumeric '0') as contracted_cost,
    coalesce(sum(effective_cost), bignumeric '0') as effective_cost, coalesce(sum(billed_cost), bignumeric '0') as billed_cost
  from cost_allocations
  where billing_period = @period
  group by source, billing_currency, is_of_runs
),
ledger as (
  select
    source, billing_currency, sum(list_cost) as list_cost, sum(contracted_cost) as contracted_cost, sum(effective_cost) as effective_cost, sum(billed_cost) as billed_cost
  from charges
  group by source, billing_currency
),
found as (
  select 'billing_lines' as checked_table, source, billing_currency, list_cost, contracted_cost, effective_cost, billed_cost from lines
  union all
  select 'cost_allocations', source, billing_currency, list_cost, contracted_cost, effective_cost, billed_cost from ledger
  union all
  select
    'cost_daily', source, billing_currency, coalesce(sum(list_cost), bignumeric '0'), coalesce(sum(contracted_cost), bignumeric '0'),
    coalesce(sum(effective_cost), bignumeric '0'), coalesce(sum(billed_cost), bignumeric '0')
  from cost_daily
  where billing_period = @period
  group by source, billing_currency
  union all
  select
    'run_costs_daily', source, billing_currency, coalesce(sum(list_cost), bignumeric '0'), coalesce(sum(contracted_cost), bignumeric '0'),
    coalesce(sum(effective_cost), bignumeric '0'), coalesce(sum(billed_cost), bignumeric '0')
  from run_costs_daily
  where billing_period = @period
  group by source, billing_currency
),
expected as (
  select
    'billing_lines' as checked_table, source, billing_currency, coalesce(list_cost, bignumeric '0') as list_cost,
    coalesce(contracted_cost, bignumeric '0') as contracted_cost, coalesce(effective_cost, bignumeric '0') as effective_cost,
    coalesce(billed_cost, bignumeric '0') as billed_cost
  from billing_loads
  where billing_period = @period and state = 'current' and billing_currency <> ''
  union all
  select 'cost_allocations', source, billing_currency, list_cost, contracted_cost, effective_cost, billed_cost from lines
  union all
  select 'cost_daily', source, billing_currency, list_cost, contracted_cost, effective_cost, billed_cost from ledger
  union all
  select 'run_costs_daily', source, billing_currency, list_cost, contracted_cost, effective_cost, billed_cost from charges where is_of_runs
)
select
  coalesce(f.checked_table, e.checked_table) as checked_table, coalesce(f.source, e.source) as source,
  coalesce(f.billing_currency, e.billing_currency) as billing_currency,
  f.effective_cost as found_effective_cost, e.effective_cost as expected_effective_cost,
  coalesce(f.list_cost, bignumeric '0') - coalesce(e.list_cost, bignumeric '0') as list_difference,
  coalesce(f.contracted_cost, bignumeric '0') - coalesce(e.contracted_cost, bignumeric '0') as contracted_difference,
  coalesce(f.effective_cost, bignumeric '0') - coalesce(e.effective_cost, bignumeric '0') as effective_difference,
  coalesce(f.billed_cost, bignumeric '0') - coalesce(e.billed_cost, bignumeric '0') as billed_difference
from found f
full outer join expected e on e.checked_table = f.checked_table and e.source = f.source and e.billing_currency = f.billing_currency
where f.source is null or e.source is null
  or f.list_cost <> e.list_cost or f.contracted_cost <> e.contracted_cost or f.effective_cost <> e.effective_cost or f.billed_cost <> e.billed_cost
