-- one row per resource and charge period for which the resource's own lines have no billed time: the time from its other lines, from its
-- machines, or from an earlier bill
with long_periods as (
  -- For example, a daily license of a machine that is billed by the hour.
  select l.resource_key, l.charge_period_start, l.charge_period_end
  from billing_lines l
  join (select distinct resource_key from known_machines) k on k.resource_key = l.resource_key
  where l.billing_period = @period and l.charge_date >= @period
    and timestamp_diff(l.charge_period_end, l.charge_period_start, microsecond) > 3600000000 and at_most_a_day(l.charge_period_start, l.charge_period_end)
  group by l.resource_key, l.charge_period_start, l.charge_period_end
  having countif(l.charge_category = 'Usage' and l.charge_class is null and l.billed_nanoseconds > 0) = 0
),
hours as (
  select resource_key, charge_period_start, charge_period_end, hour_number
  from long_periods
  cross join unnest(hours_between(charge_period_start, charge_period_end)) as hour_number
),
skus as (
  select
    h.resource_key, h.charge_period_start, h.charge_period_end, b.charge_period_start as billed_from, b.charge_period_end as billed_to,
    b.source, b.sku_id, sum(b.billed_nanoseconds) as billed_nanoseconds
  from billing_lines b
  join hours h on h.resource_key = b.resource_key and h.hour_number = hour_of(b.charge_period_start)
  where b.billing_period = @period and b.charge_category = 'Usage' and b.charge_class is null and b.billed_nanoseconds > 0
    and b.charge_period_start >= h.charge_period_start and b.charge_period_end <= h.charge_period_end
  group by h.resource_key, h.charge_period_start, h.charge_period_end, b.charge_period_start, b.charge_period_end, b.source, b.sku_id
),
charges as (
  select resource_key, charge_period_start, charge_period_end, max(billed_nanoseconds) as billed_nanoseconds
  from skus
  group by resource_key, charge_period_start, charge_period_end, billed_from, billed_to
),
found as (
  select resource_key, charge_period_start, charge_period_end, sum(billed_nanoseconds) as billed_nanoseconds
  from charges
  group by resource_key, charge_period_start, charge_period_end
  union all
  select resource_key, charge_period_start, charge_period_end, billed_nanoseconds from earlier_times
  union all
  select resource_key, charge_period_start, charge_period_end, billed_nanoseconds from cluster_times
)
select resource_key, charge_period_start, charge_period_end, cast(max(billed_nanoseconds) as int64) as billed_nanoseconds
from found
group by resource_key, charge_period_start, charge_period_end
