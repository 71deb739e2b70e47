-- rows: keys of run_costs_daily that are duplicated or incomplete
select tracking_server, workspace, run_id, charge_date, cost_kind, source, @period as billing_period, billing_currency, count(*) as rows_found
from run_costs_daily
where billing_period = @period
group by tracking_server, workspace, run_id, charge_date, cost_kind, source, billing_currency
having count(*) > 1 or tracking_server is null or workspace is null or run_id is null or charge_date is null or cost_kind is null or source is null or billing_currency is null
