-- Totals of the bill lines of the billing period.
select
  source, billing_currency,
  sum(list_cost) as list_cost, sum(contracted_cost) as contracted_cost,
  sum(effective_cost) as effective_cost, sum(billed_cost) as billed_cost
from billing_lines
where billing_period = @first
group by source, billing_currency
order by source, billing_currency
