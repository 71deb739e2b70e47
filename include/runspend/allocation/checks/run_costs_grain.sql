-- rows: keys of run_costs that are duplicated or incomplete
select tracking_server, workspace, run_id, start_month, billing_currency, count(*) as rows_found
from run_costs
where start_month = @period
group by tracking_server, workspace, run_id, start_month, billing_currency
having count(*) > 1 or tracking_server is null or workspace is null or run_id is null or billing_currency is null
