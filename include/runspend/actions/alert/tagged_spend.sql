-- One row per experiment with a budget in its tags, charge date and currency: its cost, and the part that is allocated to runs.
select
  c.tracking_server,
  c.workspace,
  c.experiment_id,
  c.charge_date,
  c.billing_currency,
  sum(c.{measure}) as billed,
  sum(if(c.allocated_to = 'run', c.{measure}, null)) as of_runs
from cost_daily as c
inner join experiments as x
  on x.tracking_server = c.tracking_server
  and x.workspace = c.workspace
  and x.experiment_id = c.experiment_id
where c.charge_date >= @first_date
  and c.charge_date < @end_date
  and c.allocated_to <> 'out_of_scope'
  and json_value(x.tags, '$."runspend.budget"') is not null
group by c.tracking_server, c.workspace, c.experiment_id, c.charge_date, c.billing_currency
