-- Where did each month's bill go? Every row of the bill has one target; the targets add up to the bill.
select billing_period, billing_currency, allocated_to, sum(effective_cost) as effective_cost, sum(billed_cost) as billed_cost
from cost_daily
group by billing_period, billing_currency, allocated_to
order by billing_period, billing_currency, effective_cost desc
