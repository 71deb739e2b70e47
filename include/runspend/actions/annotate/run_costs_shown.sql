-- The cost that MLflow shows for each run: billed cost plus the estimate for hours that are not billed yet. One row per run and currency.
-- `state`: 1 final, 2 provisional, 3 partly estimated.
-- `match`: 1 exact, 2 high, 3 medium, 4 low: the lowest confidence of all parts of the cost.
with parts as (
  select
    tracking_server, workspace, run_id, billing_currency, effective_cost, case cost_status when 'final' then 1 else 2 end as state,
    case confidence when 'exact' then 1 when 'high' then 2 when 'medium' then 3 else 4 end as match
  from run_costs
  where tracking_server = @server and billing_currency <> '' and cost_status <> 'none'
  union all
  select
    tracking_server, workspace, run_id, billing_currency, effective_cost, 3 as state,
    case confidence when 'exact' then 1 when 'high' then 2 when 'medium' then 3 else 4 end as match
  from run_estimates
  where tracking_server = @server and billing_currency <> '' and effective_cost is not null
)
select r.workspace, r.experiment_id, r.run_id, lower(p.billing_currency) as currency, sum(p.effective_cost) as cost, max(p.state) as state, max(p.match) as match
from parts p
join runs r on r.tracking_server = p.tracking_server and r.workspace = p.workspace and r.run_id = p.run_id
where r.lifecycle_stage = 'active' and r.purged_at is null and r.experiment_id is not null
group by r.workspace, r.experiment_id, r.run_id, p.billing_currency
order by workspace, experiment_id, run_id, currency
