-- one row per block of stated machines on an axis of charge_parts: their total cost, and whether a run may get part of it.
-- In charge_parts, stated machines come before all others, and runs come before unclaimed time.
-- Everything after the last run is idle, so it needs no position on the axis.
with targets as (
  select match_method, target_key, window_start, window_end, run_id, ratio_to from pool_targets
  union all
  select match_method, target_key, window_start, window_end, run_id, ratio_to from type_targets
),
windows as (
  select
    match_method, target_key, window_start, window_end, max(case when run_id is not null then ratio_to else 0.0 end) as asked_upto,
    row_number() over (order by match_method, target_key, window_start, window_end) as window_number
  from targets
  group by match_method, target_key, window_start, window_end
),
sums as (
  select
    match_method, target_key, window_start, window_end, source, billing_currency, cost_kind, service_name, charge_category,
    case when effective_cost > 0 then 1 when effective_cost < 0 then -1 else 0 end as cost_sign, cast(null as int64) as block_number,
    count(*) as lines, count(*) as charges, sum(effective_cost) as effective_cost
  from timed_candidates
  group by match_method, target_key, window_start, window_end, source, billing_currency, cost_kind, service_name, charge_category, cost_sign
  union all
  select
    match_method, target_key, window_start, window_end, source, billing_currency, cost_kind, service_name, charge_category, cost_sign, block_number,
    -- Charges of one machine without cost count as one charge.
    cast(sum(lines) as int64), cast(sum(case when cost_sign = 0 then free_machines else lines end) as int64), sum(effective_cost)
  from offered_sums
  group by match_method, target_key, window_start, window_end, source, billing_currency, cost_kind, service_name, charge_category, cost_sign, block_number
),
axes as (
  -- Names are long, so a number replaces them while positions are computed.
  select
    w.match_method, w.target_key, w.window_start, w.window_end, s.source, s.billing_currency, s.cost_kind, s.service_name, s.charge_category, s.cost_sign,
    w.window_number, w.asked_upto, s.lines, s.charges, case when s.cost_sign <> 0 then cast(cast(s.effective_cost as string) as float64) end as effective_float,
    row_number() over (order by w.window_number, s.source, s.billing_currency, s.cost_kind, s.service_name, s.charge_category, s.cost_sign) as axis_number
  from (
    -- Lines of machines that no run states have no block number. They form at most as many charges as there are lines.
    select
      match_method, target_key, window_start, window_end, source, billing_currency, cost_kind, service_name, charge_category, cost_sign,
      cast(sum(lines) as int64) as lines, cast(sum(charges) as int64) as charges, sum(effective_cost) as effective_cost
    from sums
    group by match_method, target_key, window_start, window_end, source, billing_currency, cost_kind, service_name, charge_category, cost_sign
  ) s
  join windows w on w.match_method = s.match_method and w.target_key = s.target_key and w.window_start = s.window_start and w.window_end = s.window_end
),
wide as (
  -- Whole numbers whose sum is about 2^51. All charges without cost have the same width.
  select
    a.axis_number, s.block_number, s.charges, s.effective_cost,
    case
      when s.cost_sign = 0 then s.charges
      else cast(round(cast(cast(s.effective_cost as string) as float64) / a.effective_float * 2251799813685248.0) as int64)
    end as width
  from sums s
  join axes a
    on a.match_method = s.match_method and a.target_key = s.target_key and a.window_start = s.window_start and a.window_end = s.window_end
    and a.source = s.source and a.billing_currency = s.billing_currency and a.cost_kind = s.cost_kind
    and a.service_name is not distinct from s.service_name and a.charge_category = s.charge_category and a.cost_sign = s.cost_sign
  where s.block_number is not null
),
laid as (
  select
    axis_number, block_number, charges, effective_cost,
    cast(sum(width) over (partition by axis_number order by block_number) as int64) - width as starts_at
  from wide
),
reached as (
  -- A machine is reached as a whole: if a block is reached on one axis of the charge period, it is reached on all axes.
  select
    a.window_number,
    max(case
      when a.asked_upto <= 0 then null
      when a.cost_sign = 0 and l.starts_at <= a.asked_upto * a.charges then l.block_number
      -- In charge_parts, lines that form one charge are rounded together, by less than four units per line.
      when a.cost_sign <> 0 and l.starts_at < a.asked_upto * 2251799813685248.0 + 4 * a.lines then l.block_number
    end) as last_block
  from laid l
  join axes a on a.axis_number = l.axis_number
  group by a.window_number
)
select
  a.match_method, a.target_key, a.window_start, a.window_end, a.source, a.billing_currency, a.cost_kind, a.service_name, a.charge_category, a.cost_sign,
  l.block_number, l.charges, l.effective_cost, coalesce(l.block_number <= r.last_block, false) as is_reached
from laid l
join axes a on a.axis_number = l.axis_number
join reached r on r.window_number = a.window_number
