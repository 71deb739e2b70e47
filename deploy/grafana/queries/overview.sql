-- total: Cost of all charges in the time range, out of scope included.
select sum({measure}) as cost
from {costs_for_dashboards}
where {days charge_date} and {is billing_currency currency} and {in team}

-- change: Cost of the time range compared with as many days before it. Bills arrive late, so the newest days are incomplete.
select
  sum(case when {days charge_date} then {measure} else 0 end) as cost,
  sum(case when {days_before charge_date} then {measure} else 0 end) as cost_before,
  sum(case when {days charge_date} then {measure} else 0 end) / nullif(sum(case when {days_before charge_date} then {measure} else 0 end), 0) - 1
    as change
from {costs_for_dashboards}
where ({days charge_date} or {days_before charge_date}) and {is billing_currency currency} and {in team}

-- parts: Where the money went: runs, idle machines, shared charges such as taxes and fees, cost that no rule allocated, and out of scope.
select part, sum({measure}) as cost
from {costs_for_dashboards}
where {days charge_date} and {is billing_currency currency} and {in team}
group by part
order by cost desc, part

-- days: Cost per day and part of the bill.
select {time charge_date}, part as metric, sum({measure}) as cost
from {costs_for_dashboards}
where {days charge_date} and {is billing_currency currency} and {in team}
group by charge_date, part
order by 1, 2

-- teams: Cost of each team, compared with as many days before. Names in brackets are the parts of the bill without a team.
select
  team,
  sum(case when {days charge_date} then {measure} else 0 end) as cost,
  sum(case when {days_before charge_date} then {measure} else 0 end) as cost_before,
  sum(case when {days charge_date} then {measure} else -{measure} end) as difference
from {costs_for_dashboards}
where ({days charge_date} or {days_before charge_date}) and {is billing_currency currency} and {in team}
group by team
order by cost desc, team

-- services: Cost by service of the cloud, the most expensive first.
select service_name, sum({measure}) as cost
from {costs_for_dashboards}
where {days charge_date} and {is billing_currency currency} and {in team}
group by service_name
order by cost desc, service_name

-- kinds: Cost per day by what the money bought: compute, storage, network, language models or other.
select {time charge_date}, cost_kind as metric, sum({measure}) as cost
from {costs_for_dashboards}
where {days charge_date} and {is billing_currency currency} and {in team}
group by charge_date, cost_kind
order by 1, 2

-- bills: Each bill and month that the time range touches, whole. Compare billed_cost with invoices.
select
  source, billing_period, sum(effective_cost) as effective_cost, sum(billed_cost) as billed_cost,
  max(cost_status) as cost_status, max(charge_date) as newest_day
from {costs_for_dashboards}
where {months billing_period} and {is billing_currency currency}
group by source, billing_period
order by billing_period desc, source
