-- one row per pool and charge period: the number of machines that it bills, and their average billed time.
-- The time of a line of several machines shows only their least number. More machines are counted if runs ask for them and the time is enough.
with windows as (
  select distinct p.pool_number, c.window_start, c.window_end
  from (
    select match_method, target_key, window_start, window_end from timed_candidates
    union distinct
    select match_method, target_key, window_start, window_end from offered_sums
  ) c
  join pools p on p.match_method = c.match_method and p.target_key = c.target_key
),
kinds as (
  select distinct p.kind_number, c.weight_kind, c.has_units, c.unit_scale
  from pool_claims c
  join pools p on p.pool_number = c.pool_number
),
sized as (
  select
    m.pool_number, m.window_start, m.window_end, m.machine_count, m.billed_microseconds, m.is_uncounted, m.is_offered,
    case
      when not coalesce(k.has_units, false) then 1
      when k.weight_kind = 'gpu' then m.machine_gpus * k.unit_scale
      when k.weight_kind = 'cpu' then m.machine_cpus * k.unit_scale
      else cast(ceil(m.machine_memory_gb) as int64)
    end as machine_units
  from pool_machines m
  join pools p on p.pool_number = m.pool_number
  left join kinds k on k.kind_number = p.kind_number
),
sums as (
  select
    pool_number, window_start, window_end,
    cast(sum(machine_count) as int64) as machines, cast(sum(machine_count * machine_units) as int64) as units,
    cast(sum(billed_microseconds) as int64) as billed_microseconds,
    cast(sum(billed_microseconds * machine_units) as int64) as unit_microseconds,
    cast(sum(case when is_uncounted then machine_count * machine_units else 0 end) as int64) as uncounted_units,
    cast(sum(case when is_uncounted then billed_microseconds * machine_units else 0 end) as int64) as uncounted_microseconds,
    -- The rest of stated machines is rarely a whole machine.
    cast(sum(case when not is_offered then machine_count * machine_units else 0 end) as int64) as whole_units,
    cast(sum(case when is_offered then billed_microseconds * machine_units else 0 end) as int64) as rest_microseconds
  from sized
  group by pool_number, window_start, window_end
),
billed as (
  -- If a statement matches several cells, its pool consists of these cells.
  select
    c.pool_number, w.window_start, w.window_end,
    cast(coalesce(sum(s.machines), 0) as int64) as machines, cast(coalesce(sum(s.units), 0) as int64) as units,
    cast(coalesce(sum(s.billed_microseconds), 0) as int64) as billed_microseconds, cast(coalesce(sum(s.unit_microseconds), 0) as int64) as unit_microseconds,
    cast(coalesce(sum(s.uncounted_units), 0) as int64) as uncounted_units, cast(coalesce(sum(s.uncounted_microseconds), 0) as int64) as uncounted_microseconds,
    cast(coalesce(sum(s.whole_units), 0) as int64) as whole_units, cast(coalesce(sum(s.rest_microseconds), 0) as int64) as rest_microseconds
  from windows w
  join pool_cells c on c.cell_number = w.pool_number
  left join sums s on s.pool_number = w.pool_number and s.window_start = w.window_start and s.window_end = w.window_end
  group by c.pool_number, w.window_start, w.window_end
),
uncounted as (
  select
    pool_number, window_start, window_end, uncounted_units, uncounted_microseconds, whole_units,
    whole_units + div(rest_microseconds, timestamp_diff(window_end, window_start, microsecond)) as counted_units
  from billed
  where uncounted_units > 0
),
uncounted_hours as (
  select u.pool_number, u.window_start, u.window_end, hour_number
  from uncounted u
  cross join unnest(hours_between(u.window_start, u.window_end)) as hour_number
),
claim_hours as (
  select
    c.pool_number, c.claim_number, case when c.has_units then c.weight else c.nodes end as units, c.interval_start, c.interval_end, hour_number
  from pool_claims c
  cross join unnest(hours_between(c.interval_start, c.interval_end)) as hour_number
),
asks as (
  select
    w.pool_number, w.window_start, w.window_end, c.claim_number, max(c.units) as units,
    greatest(min(c.interval_start), w.window_start) as asked_from, least(max(c.interval_end), w.window_end) as asked_to
  from uncounted_hours w
  join claim_hours c on c.pool_number = w.pool_number and c.hour_number = w.hour_number
    and c.interval_start < w.window_end and c.interval_end > w.window_start
  group by w.pool_number, w.window_start, w.window_end, c.claim_number
),
marks as (
  select pool_number, window_start, window_end, mark, cast(sum(change) as int64) as change
  from (
    select pool_number, window_start, window_end, asked_from as mark, units as change from asks
    union all
    select pool_number, window_start, window_end, asked_to, -units from asks
  )
  group by pool_number, window_start, window_end, mark
),
levels as (
  select
    pool_number, window_start, window_end,
    cast(sum(change) over w as int64) as units, timestamp_diff(lead(mark) over w, mark, microsecond) as microseconds
  from marks
  window w as (partition by pool_number, window_start, window_end order by mark)
),
lacks as (
  -- The units that runs ask for and that are not counted yet. The counted machines of these lines use their time as well.
  select
    -- The rest of stated machines may be in use at that time.
    u.pool_number, u.window_start, u.window_end, max(l.units - u.whole_units) as units,
    cast(sum(greatest(l.units - u.counted_units, 0) * l.microseconds) as int64) as lacking_microseconds,
    min(u.uncounted_microseconds)
      - min(u.uncounted_units) * cast(sum(case when l.units > u.counted_units then l.microseconds else 0 end) as int64) as left_microseconds,
    -- Up to 1% more is rounding.
    div(min(u.uncounted_microseconds), 100) as rounding_microseconds
  from uncounted u
  join levels l on l.pool_number = u.pool_number and l.window_start = u.window_start and l.window_end = u.window_end
  where l.units > u.whole_units
  group by u.pool_number, u.window_start, u.window_end
),
added as (
  select
    pool_number, window_start, window_end,
    case
      when lacking_microseconds <= left_microseconds + rounding_microseconds then units
      else div(units * div(greatest(left_microseconds, 0), 1000), greatest(div(lacking_microseconds, 1000), 1))
    end as units
  from lacks
),
enough as (
  select
    b.pool_number, b.window_start, b.window_end, b.billed_microseconds, b.unit_microseconds,
    -- Clocks count units or machines, but not both.
    b.machines + coalesce(a.units, 0) as machines, b.units + coalesce(a.units, 0) as units
  from billed b
  left join added a on a.pool_number = b.pool_number and a.window_start = b.window_start and a.window_end = b.window_end
)
select
  pool_number, window_start, window_end, machines, units, billed_microseconds, unit_microseconds,
  -- Billed time per unit, in ticks of 1/64 nanosecond.
  case when units > 0 then div(unit_microseconds, units) * 64000 + div(mod(unit_microseconds, units) * 64000, units) end as billed_ticks
from enough
