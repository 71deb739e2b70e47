-- The measured power of each machine and hour. The mean of a GPU covers all runs of the hour, each weighted by its measured time, because
-- overlapping runs measure the same GPU. It is rounded once, to whole milliwatts. The measured time is the time that at least one run
-- covers.
with gpus as (
  select
    resource_id, hour_start, gpu,
    div(2 * cast(sum(energy_microjoules) as int64) + cast(sum(measured_milliseconds) as int64), 2 * cast(sum(measured_milliseconds) as int64)) as milliwatts
  from machine_power
  group by resource_id, hour_start, gpu
),
stretches as (
  select
    resource_id, hour_start, measured_to,
    greatest(
      measured_from,
      coalesce(
        max(measured_to) over (partition by resource_id, hour_start order by measured_from, measured_to rows between unbounded preceding and 1 preceding),
        measured_from
      )
    ) as new_from
  from machine_power
),
covered as (
  select resource_id, hour_start, cast(sum(greatest(0, timestamp_diff(measured_to, new_from, microsecond))) as int64) as microseconds
  from stretches
  group by resource_id, hour_start
),
drawn as (
  select resource_id, hour_start, cast(sum(milliwatts) as int64) as milliwatts from gpus group by resource_id, hour_start
)
select d.resource_id, d.hour_start, d.milliwatts, div(c.microseconds, 1000) as milliseconds
from drawn d
join covered c on c.resource_id = d.resource_id and c.hour_start = d.hour_start
