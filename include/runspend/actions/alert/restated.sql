-- One row per bill restated after an alert for a budget: the changed days, among the days that the alert was based on.
select
  c.source,
  min(c.charge_date) as first_date,
  max(c.charge_date) as last_date,
  sum(c.{measure}) as change
from bill_changes as c
inner join billing_loads as l
  on l.source = c.source
  and l.billing_period = c.billing_period
  and l.version_number = c.version_number
  and l.billing_currency = c.billing_currency
where c.charge_date >= @first_date
  and c.charge_date <= @through
  and c.billing_currency = @currency
  and c.{measure} <> 0
  and l.loaded_at > @since  -- loads and mails of a pipeline run have the same time, so loads before the alert itself do not count
group by c.source
having sum(c.{measure}) < 0
order by change, c.source
