-- Effective cost by billing period, currency and target.
select billing_period as period, billing_currency, allocated_to, sum(effective_cost) as effective_cost
from cost_daily
group by billing_period, billing_currency, allocated_to
order by period desc, billing_currency, allocated_to
limit 100
