-- Allocated cost by team and experiment, on the month's charge dates and on the same days of the previous month.
select
  billing_currency, team, tracking_server, workspace, experiment_id, max(experiment_name) as experiment_name,
  sum(case when charge_date >= @first then effective_cost end) as effective_cost,
  sum(case when charge_date < @first then effective_cost end) as previous_cost
from cost_daily
where allocated_to in ('run', 'logged_model')
  and ((charge_date >= @first and charge_date < @next) or (charge_date >= @previous_first and charge_date < @previous_next))
group by billing_currency, team, tracking_server, workspace, experiment_id
order by billing_currency, team, tracking_server, workspace, experiment_id
