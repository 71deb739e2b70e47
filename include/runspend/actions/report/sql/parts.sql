-- The month's charges by currency, target, cost kind, confidence and status.
select
  billing_currency, allocated_to, cost_kind, confidence, cost_status,
  sum(list_cost) as list_cost, sum(contracted_cost) as contracted_cost,
  sum(effective_cost) as effective_cost, sum(billed_cost) as billed_cost
from cost_daily
where charge_date >= @first and charge_date < @next
group by billing_currency, allocated_to, cost_kind, confidence, cost_status
order by billing_currency, allocated_to, cost_kind, confidence, cost_status
