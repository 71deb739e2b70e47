-- The energy of each power metric per hour, from the stream `raw_power`. MLflow logs at the end of a measurement. So a measurement covers
-- the time since the previous one, or since the run's start, but ten minutes at most.
-- NVML measures whole milliwatts, and MLflow keeps tenths of a watt. Rounding to milliwatts restores the exact value of the float, and
-- all sums then use integers.
insert into fresh_power by name
with points as (
  -- Several values with the same time count as one, with their mean.
  select run_id, key as metric, logged_ms, sum(cast(round(value * 1000) as bigint)) // count(*) as milliwatts
  from raw_power
  where is_instant(logged_ms)
  group by all
),
held as (
  select
    run_id, metric, milliwatts,
    greatest(
      coalesce(lag(p.logged_ms) over (partition by p.run_id, p.metric order by p.logged_ms), w.start_ms, p.logged_ms),
      p.logged_ms - 600000
    ) as from_ms,
    p.logged_ms as to_ms
  from points p
  join power_wanted w using (run_id, metric)
),
hourly as (
  select *, unnest(generate_series(from_ms // 3600000, (to_ms - 1) // 3600000)) as hour from held where from_ms < to_ms
),
parts as (
  select run_id, metric, milliwatts, hour, greatest(from_ms, hour * 3600000) as from_ms, least(to_ms, (hour + 1) * 3600000) as to_ms from hourly
)
select
  $server as tracking_server,
  w.workspace,
  w.run_id,
  w.start_month,
  w.metric,
  instant(p.hour * 3600000) as hour_start,
  any_value(w.resource_id) as resource_id,
  any_value(w.gpu) as gpu,
  instant(min(p.from_ms)) as measured_from,
  instant(max(p.to_ms)) as measured_to,
  cast(sum(p.to_ms - p.from_ms) as bigint) as measured_milliseconds,
  cast(sum(p.milliwatts * (p.to_ms - p.from_ms)) as bigint) as energy_microjoules,
  any_value(w.last_step) as last_step,
  any_value(w.step_stride) as step_stride,
  $load_id as load_id
from parts p
join power_wanted w using (run_id, metric)
group by w.workspace, w.run_id, w.start_month, w.metric, p.hour
