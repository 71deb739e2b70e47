-- One row per charge date and currency of the ML platform's money, one column per budget (null: nothing of it that day).
-- The line with the braces is replaced by one sum per budget; see figures.py.
select
  charge_date,
  billing_currency,
  {budgets}
from cost_daily
where charge_date >= @first_date
  and charge_date < @end_date
  and allocated_to != 'out_of_scope'
group by charge_date, billing_currency
