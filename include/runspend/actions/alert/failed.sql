-- One row: the cost of failed and killed runs in a budget and its period.
select sum(c.{measure}) as spent
from run_costs_daily as c
inner join runs as r
  on r.tracking_server = c.tracking_server
  and r.workspace = c.workspace
  and r.run_id = c.run_id
left join experiments as x
  on x.tracking_server = r.tracking_server
  and x.workspace = r.workspace
  and x.experiment_id = r.experiment_id
where c.charge_date >= @first_date
  and c.charge_date < @end_date
  and c.billing_currency = @currency
  and r.run_status in ('FAILED', 'KILLED')
  and {selector}
