-- One row: the idle cost of the whole ML platform in a period, for all teams.
select sum({measure}) as spent
from cost_daily
where charge_date >= @first_date
  and charge_date < @end_date
  and billing_currency = @currency
  and allocated_to = 'idle'
