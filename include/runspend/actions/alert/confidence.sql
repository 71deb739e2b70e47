-- One row per allocation target and confidence: the cost of a budget in its period.
select
  allocated_to,
  confidence,
  sum({measure}) as spent
from {costs}
where charge_date >= @first_date
  and charge_date < @end_date
  and billing_currency = @currency
  and allocated_to != 'out_of_scope'
  and {selector}
group by allocated_to, confidence
