-- One row per run and currency of the experiments of a name, the most expensive first, with sums over all of them.
select
  tracking_server, workspace, run_id, run_name, run_status, billing_currency, effective_cost,
  count(*) over (partition by billing_currency) as runs,
  sum(effective_cost) over (partition by billing_currency) as total,
  sum(case when run_status in ('FAILED', 'KILLED') then 1 else 0 end) over (partition by billing_currency) as failed_runs,
  sum(case when run_status in ('FAILED', 'KILLED') then effective_cost else bignumeric '0' end) over (partition by billing_currency) as failed_cost
from run_costs
where experiment_name = @experiment and billing_currency <> ''
order by total desc, billing_currency, effective_cost desc, tracking_server, workspace, run_id
