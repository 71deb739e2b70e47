-- Totals of the ledger of the billing period, by invoice.
select
  source, billing_currency, invoice_id,
  sum(list_cost) as list_cost, sum(contracted_cost) as contracted_cost,
  sum(effective_cost) as effective_cost, sum(billed_cost) as billed_cost
from cost_allocations
where billing_period = @first
group by source, billing_currency, invoice_id
order by source, billing_currency, invoice_id
