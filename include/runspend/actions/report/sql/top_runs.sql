-- Top runs by cost in each currency, from the month's charges.
with run_month as (
  select
    billing_currency, tracking_server, workspace, run_id,
    sum(list_cost) as list_cost, sum(contracted_cost) as contracted_cost,
    sum(effective_cost) as effective_cost, sum(billed_cost) as billed_cost, sum(unused_cost) as unused_cost,
    sum(machine_seconds) as machine_seconds, sum(gpu_seconds) as gpu_seconds,
    max(case confidence when 'exact' then 1 when 'high' then 2 when 'medium' then 3 when 'low' then 4 end) as worst
  from run_costs_daily
  where charge_date >= @first and charge_date < @next
  group by billing_currency, tracking_server, workspace, run_id
),
top_runs as (
  select *
  from run_month
  where effective_cost <> 0
  qualify row_number() over (partition by billing_currency order by effective_cost desc, tracking_server, workspace, run_id) <= 500
)
select
  t.billing_currency, t.tracking_server, t.workspace, t.run_id, r.run_name, r.experiment_id, r.experiment_name, r.team,
  r.user_name, r.run_status, r.start_time,
  t.list_cost, t.contracted_cost, t.effective_cost, t.billed_cost, t.unused_cost, t.machine_seconds, t.gpu_seconds, t.worst
from top_runs t
left join runs r on r.tracking_server = t.tracking_server and r.workspace = t.workspace and r.run_id = t.run_id
order by t.billing_currency, t.effective_cost desc, t.tracking_server, t.workspace, t.run_id
