-- paid_runs: Charges of runs in the time range with the names of the run, of the chosen teams.
with named as (
  select
    d.charge_date, d.cost_kind, d.{measure} as cost, d.gpu_seconds, d.tracking_server, d.workspace, d.run_id,
    r.run_name, coalesce(r.experiment_name, r.experiment_id, '(no experiment)') as experiment_name, coalesce(r.team, '(untagged)') as team,
    coalesce(r.user_name, '(no user)') as user_name, coalesce(r.run_status, '(no status)') as run_status, r.start_time
  from {run_costs_daily} d
  left join {run_costs} r
    on r.tracking_server = d.tracking_server and r.workspace = d.workspace and r.run_id = d.run_id and r.billing_currency = d.billing_currency
  where {days d.charge_date} and {is d.billing_currency currency}
),
paid as (
  select *
  from named
  where {in team} and {in experiment_name experiment}
)

-- all_paid_runs: Charges of runs in the time range with the names of the run.
with paid as (
  select
    d.charge_date, d.cost_kind, d.{measure} as cost, d.gpu_seconds, d.tracking_server, d.workspace, d.run_id,
    r.run_name, coalesce(r.experiment_name, r.experiment_id, '(no experiment)') as experiment_name, coalesce(r.team, '(untagged)') as team,
    coalesce(r.user_name, '(no user)') as user_name, coalesce(r.run_status, '(no status)') as run_status, r.start_time
  from {run_costs_daily} d
  left join {run_costs} r
    on r.tracking_server = d.tracking_server and r.workspace = d.workspace and r.run_id = d.run_id and r.billing_currency = d.billing_currency
  where {days d.charge_date} and {is d.billing_currency currency}
)

-- newest_budgets: The newest row of each budget that the newest pipeline run up to the end of the time range judged.
with numbered as (
  select *, row_number() over (partition by budget order by month desc, budget_period desc) as place, max(judged_at) over () as newest_at
  from {budget_status}
  where month <= {last_day}
),
newest as (
  select *
  from numbered
  where place = 1 and judged_at = newest_at and {is currency currency} and {in budget}
)

-- currencies: The currencies of the bills.
select distinct billing_currency
from {costs_for_dashboards}
order by billing_currency

-- teams: The teams, and the parts of the bill without one.
select distinct team
from {costs_for_dashboards}
order by team

-- experiments: The experiments of runs with a charge in the time range.
select distinct experiment_name
from {costs_for_dashboards}
where {days charge_date} and allocated_to = 'run' and {in team}
order by experiment_name

-- budget_names: The budgets.
select distinct budget
from {budget_status}
order by budget

-- schemas (postgres): The schemas that runspend publish fills.
select table_schema
from information_schema.tables
where table_name = 'runspend_builds'
order by table_schema

-- site (postgres): The address of the Runspend site.
select site_url
from {runspend_builds}
where site_url is not null
