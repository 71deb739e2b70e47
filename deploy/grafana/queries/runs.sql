-- total: Cost that was allocated to runs, by the day of the charge. A charge that lasts longer counts on its first day.
{paid_runs}
select sum(cost) as cost
from paid

-- runs: Number of runs with a charge in the time range.
{paid_runs}
select count(distinct concat(tracking_server, '/', workspace, '/', run_id)) as runs
from paid

-- failed: Cost of runs that failed or were killed.
{paid_runs}
select coalesce(sum(case when run_status in ('FAILED', 'KILLED') then cost else 0 end), 0) as cost
from paid

-- gpu_hours: Hours of GPUs that the runs used, where the number of GPUs is known.
{paid_runs}
select sum(gpu_seconds) / 3600 as gpu_hours
from paid

-- gpu_hour_cost: Compute cost of charges with a known number of GPUs, divided by their GPU hours.
{paid_runs}
select sum(cost) / nullif(sum(gpu_seconds) / 3600, 0) as cost_per_gpu_hour
from paid
where gpu_seconds > 0 and cost_kind = 'compute'

-- days: Cost of runs per day, by what the money bought.
{paid_runs}
select {time charge_date}, cost_kind as metric, sum(cost) as cost
from paid
group by charge_date, cost_kind
order by 1, 2

-- statuses: Cost of runs by the status that MLflow shows.
{paid_runs}
select run_status, sum(cost) as cost
from paid
group by run_status
order by cost desc, run_status

-- most_expensive: The 200 most expensive runs of the time range. A click on a name opens the run in Runspend, if site.url is set there.
{paid_runs}
select
  coalesce(run_name, run_id) as run, experiment_name, team, user_name, run_status, start_time, sum(cost) as cost,
  sum(gpu_seconds) / 3600 as gpu_hours, run_id, tracking_server, workspace
from paid
group by coalesce(run_name, run_id), experiment_name, team, user_name, run_status, start_time, run_id, tracking_server, workspace
order by cost desc, run_id
limit 200
