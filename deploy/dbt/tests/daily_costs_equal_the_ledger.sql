-- Bills, months and currencies whose daily costs differ from the ledger in any decimal. None is right.
with ledger as (
  select source, billing_period, billing_currency, sum(effective_cost) as effective_cost, sum(billed_cost) as billed_cost
  from {{ source("runspend", "cost_allocations") }}
  group by source, billing_period, billing_currency
),

daily as (
  select source, billing_period, billing_currency, sum(effective_cost) as effective_cost, sum(billed_cost) as billed_cost
  from {{ source("runspend", "costs_for_dashboards") }}
  group by source, billing_period, billing_currency
)

select
  coalesce(ledger.source, daily.source) as source,
  coalesce(ledger.billing_period, daily.billing_period) as billing_period,
  ledger.effective_cost as ledger_cost,
  daily.effective_cost as daily_cost
from ledger
full outer join daily
  on daily.source = ledger.source and daily.billing_period = ledger.billing_period and daily.billing_currency = ledger.billing_currency
where
  coalesce(ledger.effective_cost, 0) <> coalesce(daily.effective_cost, 0)
  or coalesce(ledger.billed_cost, 0) <> coalesce(daily.billed_cost, 0)
