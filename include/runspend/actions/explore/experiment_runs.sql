-- One row per run and currency in the experiments with this name. The currency with the highest total comes first, and in it the most
-- expensive run. Each row also has the counts and sums of all runs in its currency.
select
  tracking_server, workspace, run_id, run_name, run_status, billing_currency, effective_cost,
  count(*) over (partition by billing_currency) as runs,
  sum(effective_cost) over (partition by billing_currency) as total,
  sum(case when run_status in ('FAILED', 'KILLED') then 1 else 0 end) over (partition by billing_currency) as failed_runs,
  sum(case when run_status in ('FAILED', 'KILLED') then effective_cost else bignumeric '0' end) over (partition by billing_currency) as failed_cost
from run_costs
where experiment_name = @experiment and billing_currency <> ''
order by total desc, billing_currency, effective_cost desc, tracking_server, workspace, run_id
