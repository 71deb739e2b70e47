-- Shared cost by reason.
select billing_currency, charge_category, sum(effective_cost) as effective_cost
from cost_daily
where allocated_to = 'shared' and charge_date >= @first and charge_date < @next
group by billing_currency, charge_category
order by billing_currency, charge_category
