-- One row per currency: the run's cost in one billing period.
select billing_currency, sum(list_cost) as list_cost, sum(contracted_cost) as contracted_cost, sum(effective_cost) as effective_cost, sum(billed_cost) as billed_cost
from run_costs_daily
where run_id = @run_id and tracking_server = @server and workspace = @workspace and billing_period = @period
group by billing_currency
order by billing_currency
