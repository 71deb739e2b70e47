-- count: Number of budgets that the newest pipeline run judged, up to the end of the time range.
{newest_budgets}
select count(*) as budgets
from newest

-- exceeded: Number of budgets that are exceeded.
{newest_budgets}
select count(*) as budgets
from newest
where spent > amount

-- at_risk: Number of budgets that are not exceeded yet, but will be by the forecast.
{newest_budgets}
select count(*) as budgets
from newest
where spent <= amount and forecast > amount

-- used: Part of each budget that is spent.
{newest_budgets}
select title, spent / nullif(amount, 0) as used
from newest
where spent is not null
order by used desc, title

-- amounts: What each budget allows, what is spent, and the forecast for its whole period.
{newest_budgets}
select title, amount, spent, forecast
from newest
order by title

-- budgets: All budgets with their forecast, its 80% interval, and the day on which they are or will be exceeded.
{newest_budgets}
select
  title, budget_period, amount, spent, estimated, spent / nullif(amount, 0) as used, forecast, forecast_low, forecast_high, exceeded_on,
  threshold_reached, next_threshold, owner, muted, not_judged, covered_until, budget
from newest
order by used desc, title

-- alerts: Alerts that were decided in the time range.
select decided_at, budget, kind, threshold, budget_period, spent, amount, forecast
from {alerts}
where {moments decided_at} and {is currency currency} and {in budget}
order by decided_at desc, budget, kind, threshold
