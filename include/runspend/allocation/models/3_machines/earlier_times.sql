-- one row per machine and charge period of an earlier month for which this period has only corrections and credits:
-- the machine's time on the bill of that month
with late as (
  select resource_key, charge_period_start, charge_period_end
  from billing_lines
  where billing_period = @period and charge_date < @period and resource_key is not null
    and charge_period_end > charge_period_start and at_most_a_day(charge_period_start, charge_period_end)
  group by resource_key, charge_period_start, charge_period_end
  having countif(charge_category = 'Usage' and charge_class is null and billed_nanoseconds > 0) = 0
),
hours as (
  select resource_key, charge_period_start, charge_period_end, hour_number
  from late
  cross join unnest(hours_between(charge_period_start, charge_period_end)) as hour_number
),
skus as (
  select
    h.resource_key, h.charge_period_start, h.charge_period_end, b.charge_period_start as billed_from, b.charge_period_end as billed_to,
    b.source, b.sku_id, sum(b.billed_nanoseconds) as billed_nanoseconds
  from billing_lines b
  join hours h on h.resource_key = b.resource_key and h.hour_number = hour_of(b.charge_period_start)
  where b.billing_period >= cast(date_trunc(date(@window_start), month) as date) and b.billing_period < @period
    and b.charge_category = 'Usage' and b.charge_class is null and b.billed_nanoseconds > 0
    and b.charge_period_start >= h.charge_period_start and b.charge_period_end <= h.charge_period_end
  group by h.resource_key, h.charge_period_start, h.charge_period_end, b.charge_period_start, b.charge_period_end, b.source, b.sku_id
),
charges as (
  -- As in machine_slots: the largest SKU is the machine.
  select resource_key, charge_period_start, charge_period_end, max(billed_nanoseconds) as billed_nanoseconds
  from skus
  group by resource_key, charge_period_start, charge_period_end, billed_from, billed_to
)
select resource_key, charge_period_start, charge_period_end, cast(sum(billed_nanoseconds) as int64) as billed_nanoseconds
from charges
group by resource_key, charge_period_start, charge_period_end
