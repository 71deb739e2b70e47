-- one row per axis of charge_parts with lines of stated machines, and block of these machines:
-- their total cost, and whether a run may get a part.
-- In charge_parts, stated machines come before all others, and runs come before unclaimed time.
-- Everything after the last run's end is idle, so it is not laid out there.
with targets as (
  select match_method, target_key, window_start, window_end, run_id, ratio_to from pool_targets
  union all
  select match_method, target_key, window_start, window_end, run_id, ratio_to from type_targets
),
windows as (
  select match_method, target_key, window_start, window_end, max(case when run_id is not null then ratio_to else 0.0 end) as asked_upto
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
    -- Charges of one machine that cost nothing are one charge.
    cast(sum(lines) as int64), cast(sum(case when cost_sign = 0 then free_machines else lines end) as int64), sum(effective_cost)
  from offered_sums
  group by match_method, target_key, window_start, window_end, source, billing_currency, cost_kind, service_name, charge_category, cost_sign, block_number
),
blocks as (
  -- Lines of machines that no run states have no block number. They form at most as many charges as lines.
  select
    match_method, target_key, window_start, window_end, source, billing_currency, cost_kind, service_name, charge_category,
    cost_sign, block_number, lines, charges, effective_cost,
    dense_rank() over (
      order by match_method, target_key, window_start, window_end, source, billing_currency, cost_kind, service_name, charge_category, cost_sign) as axis_number
  from sums
),
axes as (
  select axis_number, cast(sum(lines) as int64) as lines, cast(sum(charges) as int64) as charges, sum(effective_cost) as effective_cost
  from blocks
  group by axis_number
),
wide as (
  -- Whole numbers that sum to 2^51, or nearly. Charges that cost nothing all have the same width.
  select
    b.match_method, b.target_key, b.window_start, b.window_end, b.source, b.billing_currency, b.cost_kind, b.service_name, b.charge_category,
    b.cost_sign, b.axis_number, b.block_number, b.charges, b.effective_cost, a.lines as axis_lines, a.charges as axis_charges,
    case
      when b.cost_sign = 0 then b.charges
      else cast(round(cast(cast(b.effective_cost as string) as float64) / cast(cast(a.effective_cost as string) as float64) * 2251799813685248.0) as int64)
    end as width
  from blocks b
  join axes a on a.axis_number = b.axis_number
  where b.block_number is not null
),
laid as (
  select *, cast(sum(width) over (partition by axis_number order by block_number) as int64) - width as starts_at
  from wide
)
select
  l.match_method, l.target_key, l.window_start, l.window_end, l.source, l.billing_currency, l.cost_kind, l.service_name, l.charge_category, l.cost_sign,
  l.block_number, l.charges, l.effective_cost,
  -- Machines are reached as a whole: a block reached along one axis of the charge period is reached along all axes.
  coalesce(l.block_number <= max(case
    when w.asked_upto <= 0 then null
    when l.cost_sign = 0 and l.starts_at <= w.asked_upto * l.axis_charges then l.block_number
    -- Lines that form one charge there are rounded together, by less than four units per line.
    when l.cost_sign <> 0 and l.starts_at < w.asked_upto * 2251799813685248.0 + 4 * l.axis_lines then l.block_number
  end) over (partition by l.match_method, l.target_key, l.window_start, l.window_end), false) as is_reached
from laid l
join windows w on w.match_method = l.match_method and w.target_key = l.target_key and w.window_start = l.window_start and w.window_end = l.window_end
