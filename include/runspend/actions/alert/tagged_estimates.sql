-- One row per experiment with a budget in its tags, charge date and currency: the estimated cost of its runs for unbilled hours.
select
  r.tracking_server,
  r.workspace,
  r.experiment_id,
  e.charge_date,
  e.billing_currency,
  sum(e.{measure}) as estimated
from run_estimates as e
inner join runs as r
  on r.tracking_server = e.tracking_server
  and r.workspace = e.workspace
  and r.run_id = e.run_id
inner join experiments as x
  on x.tracking_server = r.tracking_server
  and x.workspace = r.workspace
  and x.experiment_id = r.experiment_id
where e.charge_date >= @first_date
  and e.charge_date < @end_date
  and e.cost_kind <> 'llm'
  and json_value(x.tags, '$."runspend.budget"') is not null
group by r.tracking_server, r.workspace, r.experiment_id, e.charge_date, e.billing_currency
