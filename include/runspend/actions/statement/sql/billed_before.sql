-- The sources that have a bill of an earlier billing period.
select distinct source
from period_states
where billing_period < @first
