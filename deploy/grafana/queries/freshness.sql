-- newest_day: Newest day with a charge of usage.
select max(charge_date) as newest_day
from {costs_for_dashboards}
where charge_category = 'Usage'

-- bill_lag: Hours since the end of the newest complete hour of each bill.
select source, {hours_since covered_until} as hours
from {sources}
where kind = 'bill'
order by source

-- published: When rows here changed last, by the clock of the pipeline.
select max(published_at) as published_at
from {runspend_builds}
where table_name = 'all'

-- published (bigquery): When rows of the warehouse changed last.
select max(built_at) as published_at
from {builds}

-- build: The build of all tables here. Two copies with the same build have the same rows.
select max(build_id) as build_id
from {runspend_builds}
where table_name = 'all'

-- build (bigquery): The build of the newest month of costs.
select max(build_id) as build_id
from {builds}
where step = 'allocate' and month = (select max(month) from {builds} where step = 'allocate')

-- sources: Each tracking server, bill and artifact store: its state, and how far its data reach.
select
  source, kind, state, covered_until, {hours_since covered_until} as hours_behind, usual_lag_seconds / 3600 as usual_hours,
  late_after_seconds / 3600 as late_after_hours, row_count, last_error, last_good_at
from {sources}
order by kind, source

-- confidence: Cost of runs by how surely its run is known. Exact: the bill names the run. High: it names the machine.
select confidence, sum({measure}) as cost
from {costs_for_dashboards}
where {days charge_date} and {is billing_currency currency} and allocated_to = 'run'
group by confidence
order by cost desc, confidence

-- statuses: Provisional cost can still change with the bill; final cost cannot.
select {time charge_date}, cost_status as metric, sum({measure}) as cost
from {costs_for_dashboards}
where {days charge_date} and {is billing_currency currency}
group by charge_date, cost_status
order by 1, 2

-- coverage: Part of the cost in scope, without shared charges, that has a run, that has a team, and that no rule allocated.
select
  sum(case when allocated_to = 'run' then {measure} else 0 end) / nullif(sum({measure}), 0) as with_run,
  sum(case when allocated_to = 'run' and team <> '(untagged)' then {measure} else 0 end) / nullif(sum({measure}), 0) as with_team,
  sum(case when allocated_to = 'unallocated' then {measure} else 0 end) / nullif(sum({measure}), 0) as unallocated
from {costs_for_dashboards}
where {days charge_date} and {is billing_currency currency} and allocated_to not in ('shared', 'out_of_scope')

-- agreement: The cost of all runs in three tables, over all time. The differences are zero unless a table is missing or half copied.
with sums as (
  select
    (select sum(effective_cost) from {costs_for_dashboards} where allocated_to = 'run' and {is billing_currency currency}) as costs_for_dashboards,
    (select sum(effective_cost) from {run_costs_daily} where {is billing_currency currency}) as run_costs_daily,
    (select sum(effective_cost) from {run_costs} where {is billing_currency currency}) as run_costs
)
select costs_for_dashboards, run_costs_daily, run_costs, run_costs_daily - costs_for_dashboards as difference_daily, run_costs - run_costs_daily as difference
from sums

-- tables: Each table and month here, its build, and when it changed last.
select table_name, period, build_id, row_count, published_at
from {runspend_builds}
where table_name <> 'all'
order by table_name, period desc

-- tables (bigquery): Each step and month of the warehouse, its build, and when it changed last.
select step, month, build_id, built_at
from {builds}
order by month desc, step
