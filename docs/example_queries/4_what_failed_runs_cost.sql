-- How much of each experiment's money went into runs that failed or were killed?
select
  start_month, experiment_name, billing_currency,
  count(*) as run_count,
  countif(run_status in ('FAILED', 'KILLED')) as failed_count,
  sum(effective_cost) as effective_cost,
  sum(case when run_status in ('FAILED', 'KILLED') then effective_cost else bignumeric '0' end) as failed_cost
from run_costs
where cost_status <> 'none'
group by start_month, experiment_name, billing_currency
order by failed_cost desc, start_month, experiment_name, billing_currency
