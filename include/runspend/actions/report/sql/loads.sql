-- Versions of the bills of the billing period.
select
  source, billing_currency, version, version_number, state, reason, delivered_at, row_count,
  list_cost, contracted_cost, effective_cost, billed_cost, rounded_cost, covered_until, is_invoiced
from billing_loads
where billing_period = @first
order by source, version_number, billing_currency
