-- Shared cost by the columns from which its kind follows.
select billing_currency, charge_category, service_name, reason, sum(effective_cost) as effective_cost
from cost_allocations
where allocated_to = 'shared' and charge_date >= @first and charge_date < @next
  and billing_period >= @previous_first and billing_period <= @next
group by billing_currency, charge_category, service_name, reason
order by billing_currency, charge_category, service_name, reason
