-- idle: Cost of machine time that was paid for and that no run used.
select sum({measure}) as cost
from {costs_for_dashboards}
where {days charge_date} and {is billing_currency currency} and allocated_to = 'idle'

-- idle_share: Idle cost, divided by idle cost and the cost of runs.
select sum(case when allocated_to = 'idle' then {measure} else 0 end) / nullif(sum({measure}), 0) as share
from {costs_for_dashboards}
where {days charge_date} and {is billing_currency currency} and allocated_to in ('idle', 'run')

-- failed: Cost of runs that failed or were killed.
{all_paid_runs}
select coalesce(sum(case when run_status in ('FAILED', 'KILLED') then cost else 0 end), 0) as cost
from paid

-- unused: Part of the effective cost of runs for units of machines that they did not request.
select coalesce(sum(unused_cost), 0) as cost
from {run_costs_daily}
where {days charge_date} and {is billing_currency currency}

-- overhead: Part of the effective cost of runs for time of their jobs outside the runs: start-up, gaps, shut-down.
select coalesce(sum(overhead_cost), 0) as cost
from {run_costs_daily}
where {days charge_date} and {is billing_currency currency}

-- orphaned: Cost of stored artifacts that belong to no run.
select coalesce(sum({measure}), 0) as cost
from {costs_for_dashboards}
where {days charge_date} and {is billing_currency currency} and allocated_to = 'orphan'

-- days: Idle cost per day and service.
select {time charge_date}, service_name as metric, sum({measure}) as cost
from {costs_for_dashboards}
where {days charge_date} and {is billing_currency currency} and allocated_to = 'idle'
group by charge_date, service_name
order by 1, 2

-- failed_days: Cost of failed and killed runs per day.
{all_paid_runs}
select {time charge_date}, run_status as metric, sum(cost) as cost
from paid
where run_status in ('FAILED', 'KILLED')
group by charge_date, run_status
order by 1, 2

-- machines: Idle cost by resource, in whole months that the time range touches. The 200 most expensive.
select
  resource_id, service_name, instance_type, region_id, sum({measure}) as cost, sum(used_seconds) / nullif(sum(billed_seconds), 0) as utilization,
  max(last_used_at) as last_used_at, max(suspected_owner) as suspected_owner
from {unallocated_costs}
where {months billing_period} and {is billing_currency currency} and allocated_to = 'idle'
group by resource_id, service_name, instance_type, region_id
order by cost desc, resource_id, service_name
limit 200

-- unallocated: Cost that no rule allocated, by reason and service, in whole months that the time range touches.
select coalesce(reason, '(no reason)') as reason, service_name, count(distinct resource_id) as resources, sum({measure}) as cost
from {unallocated_costs}
where {months billing_period} and {is billing_currency currency} and allocated_to = 'unallocated'
group by coalesce(reason, '(no reason)'), service_name
order by cost desc, reason, service_name

-- failed_experiments: Experiments whose failed and killed runs cost most. The 50 first.
{all_paid_runs},
sums as (
  select
    experiment_name, team, sum(case when run_status in ('FAILED', 'KILLED') then cost else 0 end) as failed, sum(cost) as cost_of_all,
    count(distinct case when run_status in ('FAILED', 'KILLED') then run_id end) as failed_runs
  from paid
  group by experiment_name, team
)
select experiment_name, team, failed as cost, cost_of_all, failed_runs
from sums
where failed > 0
order by failed desc, experiment_name, team
limit 50
