-- One row: the cost of failed and killed runs in a budget and its period.
select sum(c.{measure}) as spent
{runs}
where c.charge_date >= @first_date
  and c.charge_date < @end_date
  and c.billing_currency = @currency
  and r.run_status in ('FAILED', 'KILLED')
  and {selector}
