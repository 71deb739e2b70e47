-- one row per machine with runs and charge window: the time its Usage lines bill (never more than the window), and the bill they stand on
with machines as (
  select resource_key, min(machine_number) as machine_number
  from run_intervals
  group by resource_key
),
skus as (
  select
    m.machine_number, l.charge_period_start, l.charge_period_end, l.source, coalesce(l.sku_id, '') as sku_id,
    sum(case when l.charge_category = 'Usage' and l.charge_class is null and l.billed_nanoseconds > 0 then l.billed_nanoseconds end) as billed_nanoseconds,
    countif(l.charge_category = 'Usage') as usage_lines
  from ledger_lines l
  join machines m on m.resource_key = l.resource_key
  where l.line_kind = 'timed'
  group by m.machine_number, l.charge_period_start, l.charge_period_end, l.source, sku_id
),
windows as (
  -- licence, discount, the two parts of a half-covered hour, a second bill of the same machine do not add time: the largest SKU is the machine
  select
    machine_number, charge_period_start, charge_period_end, max(billed_nanoseconds) as billed_nanoseconds,
    min(case when usage_lines > 0 then source end) as usage_source,
    timestamp_diff(charge_period_end, charge_period_start, microsecond) * 1000 as window_nanoseconds
  from skus
  group by machine_number, charge_period_start, charge_period_end
)
select
  machine_number, charge_period_start, charge_period_end, usage_source,
  cast(least(coalesce(billed_nanoseconds, window_nanoseconds), window_nanoseconds) as int64) as billed_nanoseconds
from windows
