-- one row per pool, charge period, machine size and origin: the least number of machines of that size on the Usage lines, and their total time.
-- is_uncounted: the lines may be of several machines, and their time shows only the least number. is_offered: rest of stated machines.
-- Usage of an earlier month is on that month's bill. A correction or credit of a machine for that month proves that the machine ran, for the
-- time on that bill.
-- The rest of stated machines (offered_times) and machines that no run states are in separate rows.
with lines as (
  select
    p.pool_number, c.window_start, c.window_end, c.charge_period_start, c.charge_period_end, c.source, coalesce(c.sku_id, '') as sku_id,
    case when c.charge_category = 'Usage' and c.charge_class is null then c.billed_nanoseconds end as billed_nanoseconds,
    c.machine_gpus, c.machine_cpus, c.machine_memory_gb, c.resource_key, coalesce(c.job_key = c.resource_key, false) as is_job,
    -- Lines without a resource count as one group of machines for each account, region and type.
    case when c.resource_key is null then concat(
      c.source, '|=', replace(coalesce(c.sub_account_id, ''), '|', '||'), '|=', replace(coalesce(c.region_id, ''), '|', '||'), '|=',
      coalesce(lower(c.instance_type), '')) end as pile,
    -- A pool's disks, addresses and traffic are not machines.
    case
      when c.cost_kind = 'compute' and (c.billed_nanoseconds > 0 or c.instance_type is not null or c.charge_period_end <= timestamp(@period)) then 1
      when c.cost_kind = 'compute' then 2
      else 3
    end as likeness
  from timed_candidates c
  join pools p on p.match_method = c.match_method and p.target_key = c.target_key
  where ((c.charge_category = 'Usage' and c.charge_class is null) or (c.resource_key is not null and c.charge_period_end <= timestamp(@period)))
    -- A line with zero hours and zero cost does not prove a machine.
    and not coalesce(c.billed_nanoseconds = 0 and c.effective_cost = 0, false)
),
stated as (
  select p.pool_number, min(o.likeness) as likeness
  from offered_machines o
  join pools p on p.match_method = o.match_method and p.target_key = o.target_key
  group by p.pool_number
),
known as (
  select distinct p.pool_number
  from pool_known_uses u
  join pools p on p.match_method = 'pool_time' and p.target_key = u.target_key
),
described as (
  select
    pool_number, resource_key, pile, pool_number in (select pool_number from known) as has_known, logical_or(is_job) as is_job, min(likeness) as likeness,
    max(machine_gpus) as machine_gpus, max(machine_cpus) as machine_cpus, max(machine_memory_gb) as machine_memory_gb
  from lines
  group by pool_number, resource_key, pile
),
scale_sets as (
  -- A license names the Azure scale set, but the machines of the scale set have separate lines.
  select pool_number, scale_set_of(resource_key) as scale_set
  from described
  where scale_set_of(resource_key) is not null
  union distinct
  select p.pool_number, scale_set_of(o.resource_key)
  from offered_machines o
  join pools p on p.match_method = o.match_method and p.target_key = o.target_key
  where scale_set_of(o.resource_key) is not null
),
machines as (
  -- Only the lines that are most like those of a machine are used.
  -- The size of a machine is that of its largest line.
  -- Disks do not count as machines if all machines of the pool are matched by tag, job or id.
  select
    m.pool_number, m.resource_key, m.pile, m.is_job, m.likeness,
    row_number() over (order by m.pool_number, m.resource_key, m.pile) as machine_number,
    nullif(m.machine_gpus, 0) as machine_gpus, nullif(m.machine_cpus, 0) as machine_cpus, nullif(m.machine_memory_gb, 0) as machine_memory_gb
  from described m
  left join stated s on s.pool_number = m.pool_number
  left join scale_sets a on a.pool_number = m.pool_number and a.scale_set = m.resource_key
  where a.scale_set is null
  qualify m.likeness = min(least(m.likeness, coalesce(s.likeness, m.likeness))) over (partition by m.pool_number) and not (m.has_known and m.likeness = 3)
),
skus as (
  select
    m.machine_number, l.charge_period_start, l.charge_period_end, l.source, l.sku_id, min(l.window_start) as window_start, min(l.window_end) as window_end,
    nullif(greatest(sum(l.billed_nanoseconds), 0), 0) as billed_nanoseconds
  from lines l
  join machines m on m.pool_number = l.pool_number and m.resource_key is not distinct from l.resource_key and m.pile is not distinct from l.pile
    -- Disks and traffic of a machine add no machine time.
    and (l.likeness < 3 or m.likeness = 3)
  group by m.machine_number, l.charge_period_start, l.charge_period_end, l.source, l.sku_id
),
charges as (
  -- Licenses, discounts and the two lines of a half-covered hour add no time. The SKU with the most time is the machine.
  select
    s.machine_number, min(s.window_start) as window_start, min(s.window_end) as window_end,
    coalesce(max(s.billed_nanoseconds), max(e.billed_nanoseconds), timestamp_diff(s.charge_period_end, s.charge_period_start, microsecond) * 1000) as billed_nanoseconds
  from skus s
  join machines m on m.machine_number = s.machine_number
  left join earlier_times e
    on e.resource_key = m.resource_key and e.charge_period_start = s.charge_period_start and e.charge_period_end = s.charge_period_end
  group by s.machine_number, s.charge_period_start, s.charge_period_end
),
billed as (
  select
    machine_number, window_start, window_end,
    cast(sum(billed_nanoseconds) as int64) as billed_nanoseconds,
    timestamp_diff(window_end, window_start, microsecond) * 1000 as window_nanoseconds
  from charges
  group by machine_number, window_start, window_end
),
numbers as (
  -- More time than the charge period means that there are several machines in one line. Up to 1% more is rounding.
  select
    machine_number, window_start, window_end, billed_nanoseconds, window_nanoseconds,
    greatest(1, div((billed_nanoseconds - div(window_nanoseconds, 100) + window_nanoseconds - 1), window_nanoseconds)) as machine_count
  from billed
),
counted as (
  select
    machine_number, window_start, window_end, billed_nanoseconds, window_nanoseconds, machine_count,
    max(machine_count) over (partition by machine_number) as most_machines
  from numbers
)
select
  m.pool_number, c.window_start, c.window_end, m.machine_gpus, m.machine_cpus, m.machine_memory_gb,
  cast(sum(c.machine_count) as int64) as machine_count,
  -- In microseconds, because the days of a hundred thousand machines exceed 2^63 nanoseconds.
  cast(sum(div(least(c.billed_nanoseconds, c.machine_count * c.window_nanoseconds), 1000)) as int64) as billed_microseconds,
  m.is_job or m.pile is not null or c.most_machines > 1 as is_uncounted, false as is_offered
from counted c
join machines m on m.machine_number = c.machine_number
group by m.pool_number, c.window_start, c.window_end, m.machine_gpus, m.machine_cpus, m.machine_memory_gb, m.is_job or m.pile is not null or c.most_machines > 1
union all
select
  p.pool_number, o.window_start, o.window_end, o.machine_gpus, o.machine_cpus, o.machine_memory_gb,
  cast(sum(o.machine_count) as int64), cast(sum(o.billed_microseconds) as int64), o.is_several, not o.is_several
from offered_times o
join pools p on p.match_method = o.match_method and p.target_key = o.target_key
group by p.pool_number, o.window_start, o.window_end, o.machine_gpus, o.machine_cpus, o.machine_memory_gb, o.is_several
