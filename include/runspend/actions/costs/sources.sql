-- One row per source: its freshness, and for a bill also the newest charge, the last load and the number of rows that could not be read.
with newest as (
  -- A charge that was spread over a month reaches to the end of the month, so it does not show how new the bill is.
  select source, coalesce(max(case when is_spread then null else charge_date end), max(charge_date)) as newest_charge_date
  from cost_daily
  group by source
),
loaded as (
  select source, max(loaded_at) as last_loaded_at
  from billing_loads
  where state = 'current'
  group by source
),
unread as (
  select source, count(*) as quarantined_rows
  from billing_quarantine
  group by source
)
select
  s.source,
  s.kind,
  s.state,
  s.covered_until,
  s.usual_lag_seconds,
  s.late_after_seconds,
  s.row_count,
  s.experiment_count,
  s.last_error,
  s.last_good_at,
  s.last_tried_at,
  newest.newest_charge_date,
  loaded.last_loaded_at,
  case when s.kind = 'bill' then coalesce(unread.quarantined_rows, 0) end as quarantined_rows
from sources s
left join newest on newest.source = s.source
left join loaded on loaded.source = s.source
left join unread on unread.source = s.source
order by s.source
