-- Wasted cost of runs by kind: failed or killed, repeated with the same code and params, and unused units.
with run_month as (
  select
    c.billing_currency, c.tracking_server, c.workspace, c.run_id,
    sum(c.effective_cost) as effective_cost, sum(c.unused_cost) as unused_cost
  from run_costs_daily c
  where c.charge_date >= @first and c.charge_date < @next
  group by c.billing_currency, c.tracking_server, c.workspace, c.run_id
),
named as (
  select
    m.billing_currency, m.tracking_server, m.workspace, m.run_id, m.effective_cost, m.unused_cost,
    r.run_name, r.experiment_id, r.experiment_name, r.user_name, r.run_status,
    case
      when r.run_status = 'FINISHED' and r.params_digest is not null and r.git_commit is not null then row_number() over (
        partition by m.billing_currency, m.tracking_server, m.workspace, r.experiment_id, r.params_digest, r.git_commit, r.run_status
        order by r.start_time, m.run_id
      )
    end as repetition
  from run_month m
  join runs r on r.tracking_server = m.tracking_server and r.workspace = m.workspace and r.run_id = m.run_id
),
wasted as (
  select 'failed' as kind, effective_cost as wasted_cost, named.* from named where run_status in ('FAILED', 'KILLED')
  union all
  select 'repeated' as kind, effective_cost as wasted_cost, named.* from named where repetition > 1
  union all
  select 'unused' as kind, unused_cost as wasted_cost, named.* from named
),
totalled as (
  select
    kind, billing_currency, tracking_server, workspace, run_id, run_name, experiment_id, experiment_name, user_name, run_status, wasted_cost,
    sum(wasted_cost) over (partition by kind, billing_currency) as total_cost,
    count(*) over (partition by kind, billing_currency) as total_runs,
    row_number() over (partition by kind, billing_currency order by wasted_cost desc, tracking_server, workspace, run_id) as place
  from wasted
  where wasted_cost > 0
)
select *
from totalled
where place <= 10
order by billing_currency, kind, place
