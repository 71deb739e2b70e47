-- one row per charge of a rule that prices lines together (except `attached`) and target with a share of it, as a range between 0 and 1.
-- Some charges of a charge period differ only in account, region or invoice. They are placed end to end on an axis, each as wide as its cost.
-- The targets are placed along the same axis, each as wide as its share.
-- Every target thus gets its share of the total cost, with at most charges + targets rows instead of charges x targets.
with all_charges as (
  -- Stated machines come first, and among them those that runs reach. Unclaimed cost therefore falls on machines that no run states.
  select
    source, charge_id, match_method, target_key, window_start, window_end, billing_currency, cost_kind, service_name, charge_category, effective_cost,
    case when known_by is not null then 1 else 3 end as rank, 1 as charge_count
  from charge_sums
  where match_method <> 'attached'
  union all
  select
    source, cast(null as string), match_method, target_key, window_start, window_end, billing_currency, cost_kind, service_name, charge_category, effective_cost,
    2, charges
  from unreached_sums
),
charges as (
  select
    source, charge_id, match_method, target_key, window_start, window_end, effective_cost, rank, charge_count,
    concat(
      source, '|', billing_currency, '|', cost_kind, '|', coalesce(concat('=', replace(service_name, '|', '||')), '-'), '|', charge_category, '|',
      case when effective_cost > 0 then '+' when effective_cost < 0 then '-' else '0' end, '|',
      coalesce(case when match_method not in ('pool_time', 'instance_type_time') then charge_id end, '')) as axis
  from all_charges
),
axes as (
  select
    match_method, target_key, window_start, window_end, axis,
    row_number() over (order by match_method, target_key, window_start, window_end, axis) as axis_number,
    cast(sum(charge_count) as int64) as charge_count, coalesce(sum(effective_cost), bignumeric '0') = bignumeric '0' as is_free,
    -- Converting decimals to floats is slow. Most axes have only one charge and need no float.
    case when sum(charge_count) > 1 then cast(cast(sum(effective_cost) as string) as float64) end as effective_float
  from charges
  group by match_method, target_key, window_start, window_end, axis
),
widths as (
  -- Whole numbers whose sum is below 2^52, each from one float product. A charge without cost is one unit wide.
  select
    a.axis_number, a.charge_count, c.source, c.charge_id, c.match_method, c.target_key, c.window_start, c.window_end, c.rank,
    case
      when a.charge_count = 1 then 1
      when a.is_free then c.charge_count
      else greatest(1, cast(round(cast(cast(c.effective_cost as string) as float64) / a.effective_float * 2251799813685248.0) as int64))
    end as width
  from charges c
  join axes a
    on a.match_method = c.match_method and a.target_key = c.target_key and a.window_start = c.window_start and a.window_end = c.window_end and a.axis = c.axis
),
positions as (
  select
    axis_number, source, charge_id, width,
    row_number() over w as charge_number,
    cast(sum(width) over (w rows between unbounded preceding and current row) as int64) as ends_at
  from widths
  where charge_count > 1
  window w as (partition by axis_number order by rank, charge_id)
),
lengths as (
  select a.axis_number, a.match_method, a.target_key, a.window_start, a.window_end, l.length
  from (select axis_number, max(ends_at) as length from positions group by axis_number) l
  join axes a on a.axis_number = l.axis_number
),
target_positions as (
  select
    l.axis_number, l.length, t.target_number,
    cast(round(t.ratio_from * l.length) as int64) as starts_at,
    case when t.is_last then l.length else cast(round(t.ratio_to * l.length) as int64) end as ends_at
  from lengths l
  join pooled_targets t
    on t.match_method = l.match_method and t.target_key = l.target_key and t.window_start = l.window_start and t.window_end = l.window_end
),
marks as (
  select axis_number, ends_at - width as mark, charge_number, cast(null as int64) as target_number, cast(null as int64) as length
  from positions
  union all
  select axis_number, starts_at, cast(null as int64), target_number, length
  from target_positions
  where ends_at > starts_at
),
cuts as (
  select axis_number, mark, max(charge_number) as charge_number, max(target_number) as target_number, max(length) as length
  from marks
  group by axis_number, mark
),
pieces as (
  -- Charges and targets are numbered along the axis, so the largest number so far is the current one.
  select
    axis_number, mark as starts_at,
    coalesce(lead(mark) over w, max(length) over (partition by axis_number)) as ends_at,
    max(charge_number) over (w rows between unbounded preceding and current row) as charge_number,
    max(target_number) over (w rows between unbounded preceding and current row) as target_number
  from cuts
  window w as (partition by axis_number order by mark)
)
select
  l.source, l.charge_id, p.target_number,
  (p.starts_at - (l.ends_at - l.width)) / l.width as ratio_from,
  (p.ends_at - (l.ends_at - l.width)) / l.width as ratio_to,
  p.ends_at = l.ends_at as is_last
from pieces p
join positions l on l.axis_number = p.axis_number and l.charge_number = p.charge_number
where l.charge_id is not null
union all
select w.source, w.charge_id, t.target_number, t.ratio_from, t.ratio_to, t.is_last
from widths w
join pooled_targets t
  on t.match_method = w.match_method and t.target_key = w.target_key and t.window_start = w.window_start and t.window_end = w.window_end
where w.charge_count = 1 and w.charge_id is not null
