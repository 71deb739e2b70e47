-- days: Cost per day by the dimension that is chosen above. Names in brackets are parts of the bill that have no such name.
select {time charge_date}, {dimension} as metric, sum({measure}) as cost
from {costs_for_dashboards}
where {days charge_date} and {is billing_currency currency} and {in team}
group by charge_date, {dimension}
order by 1, 2

-- totals: Cost by the dimension that is chosen above, by what the money bought.
select
  {dimension} as name, sum({measure}) as cost,
  sum(case when cost_kind = 'compute' then {measure} else 0 end) as compute,
  sum(case when cost_kind = 'storage' then {measure} else 0 end) as storage,
  sum(case when cost_kind = 'network' then {measure} else 0 end) as network,
  sum(case when cost_kind = 'llm' then {measure} else 0 end) as llm,
  sum(case when cost_kind = 'other' then {measure} else 0 end) as other
from {costs_for_dashboards}
where {days charge_date} and {is billing_currency currency} and {in team}
group by {dimension}
order by cost desc, name

-- experiments: Cost of the runs of each experiment. The 200 most expensive.
select experiment_name, tracking_server, team, sum({measure}) as cost, max(charge_date) as last_charge_date
from {costs_for_dashboards}
where {days charge_date} and {is billing_currency currency} and {in team} and allocated_to = 'run'
group by experiment_name, tracking_server, team
order by cost desc, experiment_name, tracking_server, team
limit 200

-- experiment_days: Cost per day of the ten most expensive experiments.
with paid as (
  select charge_date, experiment_name, {measure} as cost
  from {costs_for_dashboards}
  where {days charge_date} and {is billing_currency currency} and {in team} and allocated_to = 'run'
),
most as (
  select experiment_name, sum(cost) as total
  from paid
  group by experiment_name
  order by total desc, experiment_name
  limit 10
)
select {time charge_date}, experiment_name as metric, sum(cost) as cost
from paid
where experiment_name in (select experiment_name from most)
group by charge_date, experiment_name
order by 1, 2

-- users: Cost of the runs of each user. The 50 most expensive.
select user_name, sum({measure}) as cost
from {costs_for_dashboards}
where {days charge_date} and {is billing_currency currency} and {in team} and allocated_to = 'run'
group by user_name
order by cost desc, user_name
limit 50

-- untagged: Cost of runs and models without a team. Name their team by a tag: see dimensions in the documentation.
select sum(case when team = '(untagged)' then {measure} else 0 end) as cost
from {costs_for_dashboards}
where {days charge_date} and {is billing_currency currency} and allocated_to in ('run', 'logged_model')
