-- One row per bill, period and currency: the lines and the cost of its current version.
select billing_period as period, source, billing_currency, sum(row_count) as bill_lines, sum(billed_cost) as billed_cost, sum(effective_cost) as effective_cost
from billing_loads
where state = 'current'
group by billing_period, source, billing_currency
order by period desc, source, billing_currency
limit 100
