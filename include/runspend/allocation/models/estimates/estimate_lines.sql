-- one row per machine and hour with a run that is not billed yet: the expected bill line, with the columns that are needed to split time
with days as (
  select distinct s.resource_key, day
  from run_spans s
  cross join unnest(generate_date_array(date(s.span_start), date(timestamp_sub(s.span_end, interval 1 microsecond)))) as day
  where not starts_with(s.resource_key, 'family ')
),
hours as (
  select resource_key, timestamp_add(timestamp_trunc(timestamp(day), hour), interval number hour) as hour_start
  from days
  cross join unnest(generate_array(0, 23)) as number
),
busy as (
  select distinct h.resource_key, h.hour_start
  from hours h
  join run_spans s on s.resource_key = h.resource_key and s.span_start < timestamp_add(h.hour_start, interval 1 hour) and s.span_end > h.hour_start
)
select
  m.source, @period as month, b.resource_key, greatest(b.hour_start, m.billed_until) as charge_period_start,
  least(timestamp_add(b.hour_start, interval 1 hour), @now) as charge_period_end,
  cast(null as string) as sku_id, cast(null as string) as pricing_category, 'Usage' as charge_category, cast(null as string) as charge_class, case
    when m.machines > 1
      then cast(timestamp_diff(least(timestamp_add(b.hour_start, interval 1 hour), @now), greatest(b.hour_start, m.billed_until), microsecond) * 1000 * m.machines as int64)
  end as billed_nanoseconds,
  cast(null as int64) as machine_gpus, cast(null as int64) as machine_cpus, cast(null as float64) as machine_memory_gb, 'timed' as line_kind
from busy b
join estimate_machines m on m.resource_key = b.resource_key
