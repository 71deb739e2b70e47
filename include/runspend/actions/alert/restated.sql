-- One row per bill that was restated after an alert and now costs less. It has the first and last changed day among the days of the alert.
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
  and l.loaded_at > @since  -- all loads and mails of a pipeline run have the same time, so loads of the alert's own run do not count
group by c.source
having sum(c.{measure}) < 0
order by change, c.source
