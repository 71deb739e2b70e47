-- one row per machine and charge window: the window, and the time its Usage lines bill (never more than the window)
with windows as (
  select distinct l.resource_key, l.charge_period_start, l.charge_period_end
  from ledger_lines l
  join (select distinct resource_key from run_intervals) r on r.resource_key = l.resource_key
  where l.line_kind = 'timed'
),
skus as (
  select l.resource_key, l.charge_period_start, l.charge_period_end, coalesce(l.sku_id, '') as sku_id, sum(l.billed_nanoseconds) as billed_nanoseconds
  from ledger_lines l
  where l.line_kind = 'timed' and l.charge_category = 'Usage' and l.charge_class is null and l.billed_nanoseconds > 0
  group by l.resource_key, l.charge_period_start, l.charge_period_end, sku_id
),
stated as (
  -- licence, discount and the two parts of a half-covered hour do not add time: the largest SKU is the machine
  select resource_key, charge_period_start, charge_period_end, max(billed_nanoseconds) as billed_nanoseconds
  from skus
  group by resource_key, charge_period_start, charge_period_end
),
timed as (
  select
    w.resource_key, w.charge_period_start, w.charge_period_end, s.billed_nanoseconds,
    timestamp_diff(w.charge_period_end, w.charge_period_start, microsecond) * 1000 as window_nanoseconds
  from windows w
  left join stated s on s.resource_key = w.resource_key and s.charge_period_start = w.charge_period_start and s.charge_period_end = w.charge_period_end
)
select
  resource_key, charge_period_start, charge_period_end,
  cast(least(coalesce(billed_nanoseconds, window_nanoseconds), window_nanoseconds) as int64) as billed_nanoseconds
from timed
