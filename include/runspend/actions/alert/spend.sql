-- One row per charge date and currency of the ML platform's cost. Each budget has two columns: its cost, and the part that is allocated to runs.
-- budget_costs.py replaces the words in braces: by the sums, and by the daily costs of the bill or of runs.
select
  charge_date,
  billing_currency,
  {budgets}
from {costs}
where charge_date >= @first_date
  and charge_date < @end_date
  and allocated_to <> 'out_of_scope'
group by charge_date, billing_currency
