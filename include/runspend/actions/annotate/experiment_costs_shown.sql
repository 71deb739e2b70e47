-- The costs that MLflow shows for each active experiment, one row per currency: the total and the month to date. They include deleted runs
-- and estimates.
with parts as (
  select tracking_server, workspace, run_id, billing_currency, effective_cost as cost, cast(null as bignumeric) as month_cost
  from run_costs
  where tracking_server = @server and billing_currency <> '' and cost_status <> 'none'
  union all
  select tracking_server, workspace, run_id, billing_currency, null, effective_cost
  from run_costs_daily
  where tracking_server = @server and billing_currency <> '' and charge_date >= date_trunc(date(@now), month) and charge_date <= date(@now)
  union all
  select
    tracking_server, workspace, run_id, billing_currency, effective_cost,
    case when charge_date >= date_trunc(date(@now), month) and charge_date <= date(@now) then effective_cost end
  from run_estimates
  where tracking_server = @server and billing_currency <> '' and effective_cost is not null
)
select
  e.workspace, e.experiment_id, lower(p.billing_currency) as currency, sum(coalesce(p.cost, bignumeric '0')) as total,
  sum(coalesce(p.month_cost, bignumeric '0')) as month_to_date
from parts p
join runs r on r.tracking_server = p.tracking_server and r.workspace = p.workspace and r.run_id = p.run_id
join experiments e on e.tracking_server = r.tracking_server and e.workspace = r.workspace and e.experiment_id = r.experiment_id
where e.lifecycle_stage = 'active'
group by e.workspace, e.experiment_id, p.billing_currency
order by workspace, experiment_id, currency
