-- rows: currencies for which run_costs of the month differs from the daily costs of its runs
with summed as (
  select
    billing_currency, sum(list_cost) as list_cost, sum(contracted_cost) as contracted_cost, sum(effective_cost) as effective_cost,
    sum(billed_cost) as billed_cost
  from run_costs
  where start_month = @period and cost_status <> 'none'
  group by billing_currency
),
daily as (
  select
    d.billing_currency,
    coalesce(sum(d.list_cost), bignumeric '0') as list_cost, coalesce(sum(d.contracted_cost), bignumeric '0') as contracted_cost,
    coalesce(sum(d.effective_cost), bignumeric '0') as effective_cost, coalesce(sum(d.billed_cost), bignumeric '0') as billed_cost
  from run_costs_daily d
  join (
    select tracking_server, workspace, run_id from runs where start_month = @period
    union distinct
    -- A closed month keeps its runs, even if their server was removed with `sources forget`.
    select tracking_server, workspace, run_id from run_costs where start_month = @period
  ) r on r.tracking_server = d.tracking_server and r.workspace = d.workspace and r.run_id = d.run_id
  group by d.billing_currency
)
select
  coalesce(s.billing_currency, d.billing_currency) as billing_currency, s.effective_cost as run_costs_effective_cost, d.effective_cost as daily_effective_cost
from summed s
full outer join daily d on d.billing_currency = s.billing_currency
where s.billing_currency is null or d.billing_currency is null or s.list_cost <> d.list_cost or s.contracted_cost <> d.contracted_cost
  or s.effective_cost <> d.effective_cost or s.billed_cost <> d.billed_cost
