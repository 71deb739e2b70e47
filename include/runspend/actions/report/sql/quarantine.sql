-- Rows of the billing period that could not be read.
select source, count(*) as quarantined_rows, sum(billed_cost) as billed_cost
from billing_quarantine
where billing_period = @first
group by source
order by source
