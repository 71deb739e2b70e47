-- Does the ledger agree with the invoices? Billed cost by invoice; no invoice means not invoiced yet, or summed as out of scope.
select
  billing_period, source, coalesce(invoice_id, '(none)') as invoice_id, billing_currency,
  sum(billed_cost) as billed_cost,
  sum(case when allocated_to = 'run' then billed_cost else bignumeric '0' end) as run_billed_cost
from cost_allocations
group by billing_period, source, coalesce(invoice_id, '(none)'), billing_currency
order by billing_period, source, invoice_id, billing_currency
