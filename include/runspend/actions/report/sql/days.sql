-- Effective cost by charge date and target, of this month and the previous month.
select billing_currency, charge_date, allocated_to, sum(effective_cost) as effective_cost
from cost_daily
where charge_date >= @previous_first and charge_date < @next
group by billing_currency, charge_date, allocated_to
order by billing_currency, charge_date, allocated_to
