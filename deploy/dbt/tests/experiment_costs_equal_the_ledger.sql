-- Currencies in which the model's cost is not the ledger's, in any decimal. None is right.
with ledger as (
  select billing_currency, sum(effective_cost) as effective_cost
  from {{ source("runspend", "cost_allocations") }}
  where allocated_to = 'run'
  group by billing_currency
),

model as (
  select billing_currency, sum(effective_cost) as effective_cost
  from {{ ref("experiment_unit_costs") }}
  group by billing_currency
)

select
  coalesce(ledger.billing_currency, model.billing_currency) as billing_currency,
  ledger.effective_cost as ledger_cost,
  model.effective_cost as model_cost
from ledger
full outer join model on model.billing_currency = ledger.billing_currency
where coalesce(ledger.effective_cost, 0) <> coalesce(model.effective_cost, 0)
