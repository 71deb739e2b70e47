-- Allocated cost by the user who started the run.
select billing_currency, user_name, sum(effective_cost) as effective_cost
from cost_daily
where allocated_to = 'run' and user_name is not null and charge_date >= @first and charge_date < @next
group by billing_currency, user_name
order by billing_currency, effective_cost desc, user_name
