-- one row per pool that runs ask for by instance type: all machines of the type, or those with the properties that runs state
with billed as (
  select
    p.pool_number, p.target_key, p.instance_type, p.is_group, cast(sum(w.billed_microseconds) as int64) as microseconds, cast(sum(w.unit_microseconds) as int64) as unit_microseconds,
    min(w.window_start) as billed_from, max(w.window_end) as billed_until
  from pool_windows w
  join pools p on p.pool_number = w.pool_number
  where p.match_method = 'instance_type_time'
  group by p.pool_number, p.target_key, p.instance_type, p.is_group
),
claims as (
  select pool_number, has_units, weight, nodes, interval_start as claimed_from, interval_end as claimed_to
  from pool_claims
  where not is_family
  union all
  -- A claim that several runs share counts once.
  select f.pool_number, k.has_units, f.weight, f.nodes, f.mark, f.next_mark
  from (
    select pool_number, weight, nodes, members, mark, lead(mark) over (partition by pool_number, claim_number order by mark) as next_mark
    from pool_families
  ) f
  join (select distinct pool_number, has_units from pool_claims) k on k.pool_number = f.pool_number
  where f.members > 0
),
asked as (
  -- Milliseconds of machines, or of units if machines are shared.
  select
    c.pool_number,
    cast(sum(div(timestamp_diff(least(c.claimed_to, b.billed_until), greatest(c.claimed_from, b.billed_from), microsecond), 1000) * case when c.has_units then c.weight else c.nodes end) as int64) as asked,
    logical_or(c.has_units) as has_units
  from claims c
  join billed b on b.pool_number = c.pool_number
  where c.claimed_from < b.billed_until and c.claimed_to > b.billed_from
  group by c.pool_number
),
claimed as (
  select a.pool_number, case when a.has_units then a.asked * (b.microseconds / b.unit_microseconds) else a.asked * 1.0 end as milliseconds
  from asked a
  join billed b on b.pool_number = a.pool_number
  where b.unit_microseconds > 0
),
spread as (
  -- If a run matches several pools, it claims hours of each in proportion to the billed hours.
  select
    m.cell_number,
    cast(sum(cast(round(c.milliseconds * (b.microseconds / g.microseconds)) as int64)) as int64) as milliseconds,
    cast(sum(case when m.is_group then cast(round(c.milliseconds * (b.microseconds / g.microseconds)) as int64) else 0 end) as int64) as open_milliseconds
  from pool_cells m
  join claimed c on c.pool_number = m.pool_number
  join billed g on g.pool_number = m.pool_number
  join billed b on b.pool_number = m.cell_number
  where g.microseconds > 0
  group by m.cell_number
),
given as (
  -- In microseconds, because an INT64 can store the nanoseconds of fewer than 3,500 machines per month.
  select target_key, cast(sum(div(nanoseconds, 1000)) as int64) as microseconds
  from type_targets
  where allocated_to = 'run'
  group by target_key
),
skus as (
  select
    target_key, sub_account_id, region_id, pricing_category, sku_id, billing_currency,
    sum(effective_cost) as effective_cost, cast(sum(div(billed_nanoseconds, 1000)) as int64) as microseconds
  from timed_candidates
  where match_method = 'instance_type_time' and charge_category = 'Usage' and charge_class is null
  group by target_key, sub_account_id, region_id, pricing_category, sku_id, billing_currency
),
kinds as (
  -- A license adds to the price, but not to the hours. The same applies to memory and GPUs of a machine whose time is on its cores.
  select target_key, billing_currency, sum(effective_cost) as effective_cost, max(microseconds) as microseconds
  from skus
  group by target_key, sub_account_id, region_id, pricing_category, billing_currency
),
prices as (
  select
    k.target_key, min(k.billing_currency) as billing_currency,
    min(cast(cast(k.effective_cost as string) as float64) / (k.microseconds / 3600000000.0)) as lowest,
    max(cast(cast(k.effective_cost as string) as float64) / (k.microseconds / 3600000000.0)) as highest
  from kinds k
  where k.microseconds > 0
  group by k.target_key
  having min(k.billing_currency) = max(k.billing_currency)
)
select
  @period as billing_period, b.target_key as pool_key, b.instance_type,
  b.microseconds / 1e6 as billed_seconds,
  coalesce(s.milliseconds, 0) / 1e3 as claimed_seconds,
  coalesce(s.open_milliseconds, 0) / 1e3 as open_seconds,
  coalesce(g.microseconds, 0) / 1e6 as allocated_seconds,
  coalesce(s.milliseconds, 0) * 1000.0 / b.microseconds as claimed_ratio,
  p.lowest as lowest_hour_cost, p.highest as highest_hour_cost, p.billing_currency
from billed b
left join spread s on s.cell_number = b.pool_number
left join given g on g.target_key = b.target_key
left join prices p on p.target_key = b.target_key
where not b.is_group and b.microseconds > 0
