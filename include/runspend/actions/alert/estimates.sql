-- One row per charge date and currency: the estimated cost of runs for hours that are not billed yet, with one column per budget.
select
  e.charge_date,
  e.billing_currency,
  {budgets}
from run_estimates as e
left join runs as r
  on r.tracking_server = e.tracking_server
  and r.workspace = e.workspace
  and r.run_id = e.run_id
left join experiments as x
  on x.tracking_server = r.tracking_server
  and x.workspace = r.workspace
  and x.experiment_id = r.experiment_id
where e.charge_date >= @first_date
  and e.charge_date < @end_date
  and e.cost_kind <> 'llm'
group by e.charge_date, e.billing_currency
