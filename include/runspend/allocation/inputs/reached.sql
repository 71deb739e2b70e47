-- Start months of the runs with costs in each billing period.
select distinct d.billing_period, r.start_month
from (select distinct billing_period, tracking_server, workspace, run_id from run_costs_daily) d
join runs r on r.tracking_server = d.tracking_server and r.workspace = d.workspace and r.run_id = d.run_id
