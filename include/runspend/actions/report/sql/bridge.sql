-- The difference between the month by charge date and the billing period: charges that are in only one of the two.
select
  billing_currency,
  billing_period = @first as in_period,
  charge_date >= @first and charge_date < @next as in_month,
  sum(list_cost) as list_cost, sum(contracted_cost) as contracted_cost,
  sum(effective_cost) as effective_cost, sum(billed_cost) as billed_cost
from cost_daily
where billing_period = @first or (charge_date >= @first and charge_date < @next)
group by billing_currency, in_period, in_month
order by billing_currency, in_period, in_month
