-- The time that bills with usage by the hour or day cover.
select min(charge_period_start) as since, max(charge_period_end) as upto
from billing_lines
where billing_period >= @first and charge_category = 'Usage' and charge_period_end > charge_period_start
  and at_most_a_day(charge_period_start, charge_period_end)
