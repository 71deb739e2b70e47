-- The number of runs by team and experiment, how many of them failed or were killed, and their GPU hours.
with run_month as (
  select
    billing_currency, tracking_server, workspace, run_id,
    sum(case when gpu_seconds > 0 then effective_cost end) as gpu_cost, sum(gpu_seconds) as gpu_seconds
  from run_costs_daily
  where charge_date >= @first and charge_date < @next
  group by billing_currency, tracking_server, workspace, run_id
)
select
  m.billing_currency, r.team, m.tracking_server, m.workspace, r.experiment_id,
  count(*) as runs, sum(case when r.run_status in ('FAILED', 'KILLED') then 1 else 0 end) as failed_runs,
  sum(m.gpu_cost) as gpu_cost, sum(m.gpu_seconds) as gpu_seconds
from run_month m
left join runs r on r.tracking_server = m.tracking_server and r.workspace = m.workspace and r.run_id = m.run_id
group by m.billing_currency, r.team, m.tracking_server, m.workspace, r.experiment_id
order by m.billing_currency, r.team, m.tracking_server, m.workspace, r.experiment_id
