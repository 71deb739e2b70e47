-- one row per attachment key, charge period of lines that may be attached by it, and overlapping charge period of its machines.
-- is_reached: a rule may allocate the machines to runs in this charge period
with windows as (
  select distinct target_key, window_start, window_end
  from attached_candidates
),
window_days as (
  select target_key, window_start, window_end, day
  from windows
  cross join unnest(generate_date_array(date(window_start), date(timestamp_sub(window_end, interval 1 microsecond)))) as day
),
period_days as (
  select target_key, charge_period_start, charge_period_end, is_reached, day
  from attached_periods
  cross join unnest(generate_date_array(date(charge_period_start), date(timestamp_sub(charge_period_end, interval 1 microsecond)))) as day
)
-- Equal hours are joined directly. Longer charge periods are joined by day.
select w.target_key, w.window_start, w.window_end, p.charge_period_start, p.charge_period_end, p.is_reached
from windows w
join attached_periods p on p.target_key = w.target_key and p.charge_period_start = w.window_start and p.charge_period_end = w.window_end
union all
select w.target_key, w.window_start, w.window_end, p.charge_period_start, p.charge_period_end, p.is_reached
from window_days w
join period_days p on p.target_key = w.target_key and p.day = w.day
where p.charge_period_start < w.window_end and p.charge_period_end > w.window_start
  and w.day = date(greatest(p.charge_period_start, w.window_start))
  and (p.charge_period_start <> w.window_start or p.charge_period_end <> w.window_end)
