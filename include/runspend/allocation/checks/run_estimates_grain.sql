-- rows: duplicate estimates
select
  tracking_server, workspace, run_id, charge_date, cost_kind, source, billing_currency, resource_key, estimated_from, experiment_id, user_name, model,
  count(*) as found, 1 as expected, count(*) - 1 as difference
from run_estimates
where charge_date >= @period
group by tracking_server, workspace, run_id, charge_date, cost_kind, source, billing_currency, resource_key, estimated_from, experiment_id, user_name, model
having count(*) > 1
