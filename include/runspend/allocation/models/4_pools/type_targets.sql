-- one row per cell of an instance type, charge period with claims on it and target: the runs, and the rest that no run claimed.
-- A cell consists of all machines of the type with the same stated properties (account, region, zone, purchase option).
-- If runs state no properties, the cell has all machines of the type, and every run pays the average price of a machine-hour.
-- Splitting by price would give the same result, because each part would get its share of every claim.
with open_cells as (
  select distinct cell_number from pool_cells where is_group
),
laid as (
  select
    t.cell_number, t.window_start, t.window_end, t.tracking_server, t.workspace, t.run_id, t.weight_kind, t.run_end_rule, t.is_scaled, t.part,
    cast(sum(t.part) over (w order by t.tracking_server, t.workspace, t.run_id rows between unbounded preceding and current row) as int64) as upto,
    cast(sum(t.part) over w as int64) as used
  from type_parts t
  window w as (partition by t.cell_number, t.window_start, t.window_end)
),
sized as (
  -- A difference that is only rounding does not count as time.
  select *, case when used > 2251799813681152 then used else 2251799813685248 end as length
  from laid
)
select
  'instance_type_time' as match_method, p.target_key, s.window_start, s.window_end,
  case when s.run_id is null then 'rest' else 'run' end as allocated_to,
  s.tracking_server, s.workspace, s.run_id, cast(null as string) as owner_id,
  case when s.run_id is null then 'no_run' end as reason,
  s.weight_kind, s.run_end_rule, s.is_scaled, case when s.run_id is not null then s.nanoseconds end as nanoseconds, s.ratio_from, s.ratio_to, s.is_last
from pool_shares s
join pools p on p.pool_number = s.pool_number
left join open_cells o on o.cell_number = s.pool_number
where p.match_method = 'instance_type_time' and not p.is_group and o.cell_number is null
union all
select
  'instance_type_time', p.target_key, s.window_start, s.window_end, 'run', s.tracking_server, s.workspace, s.run_id, cast(null as string), cast(null as string),
  s.weight_kind, s.run_end_rule, s.is_scaled,
  case when w.billed_microseconds > 0 then cast(round(s.part / s.length * (w.billed_microseconds * 1000.0)) as int64) end,
  (s.upto - s.part) / s.length, s.upto / s.length, s.upto = s.length
from sized s
join pools p on p.pool_number = s.cell_number
join pool_windows w on w.pool_number = s.cell_number and w.window_start = s.window_start and w.window_end = s.window_end
union all
select
  'instance_type_time', p.target_key, s.window_start, s.window_end, 'rest', cast(null as string), cast(null as string), cast(null as string), cast(null as string), 'no_run',
  s.weight_kind, cast(null as string), s.is_scaled, cast(null as int64), s.used / s.length, 1.0, true
from sized s
join pools p on p.pool_number = s.cell_number
where s.upto = s.used and s.used < s.length
