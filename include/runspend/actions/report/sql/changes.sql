-- The change of cost by each version of a bill.
select
  source, version_number, billing_currency, sum(effective_cost) as effective_cost, sum(billed_cost) as billed_cost,
  min(charge_date) as first_date, max(charge_date) as last_date
from bill_changes
where billing_period = @first
group by source, version_number, billing_currency
order by source, version_number, billing_currency
