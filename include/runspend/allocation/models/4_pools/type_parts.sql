-- one row per cell of an instance type, charge period and run: the run's share of the cell, in units of 2^-51.
-- Only for cells that at least one run matches together with other cells.
-- Runs that match one cell come first, then runs that match several cells, then runs that match all.
-- A later run gets the same share of the rest of each of its cells.
with cells as (
  select distinct cell_number from pool_cells where is_group
),
asked as (
  select pool_number, window_start, window_end, max(ratio_to) as ratio
  from pool_shares
  where run_id is not null
  group by pool_number, window_start, window_end
),
widths as (
  select
    m.pool_number, m.cell_number, m.is_whole, w.window_start, w.window_end,
    case when g.unit_microseconds > 0 then cast(round(w.unit_microseconds / g.unit_microseconds * 2251799813685248.0) as int64) else 1 end as width,
    1.0 - coalesce(a.ratio, 0.0) as free
  from pool_cells m
  join pool_windows w on w.pool_number = m.cell_number
  join pool_windows g on g.pool_number = m.pool_number and g.window_start = w.window_start and g.window_end = w.window_end
  left join asked a on a.pool_number = m.cell_number and a.window_start = w.window_start and a.window_end = w.window_end
  where m.is_group
),
some_free as (
  select
    pool_number, window_start, window_end,
    cast(sum(cast(round(width * free) as int64)) as int64) / cast(sum(width) as int64) as free
  from widths
  where not is_whole
  group by pool_number, window_start, window_end
),
some_asked as (
  -- The claim of such a run is a share of everything that its cells bill. If claims exceed the rest, they are scaled down to it.
  select a.pool_number, a.window_start, a.window_end, a.ratio, greatest(a.ratio, f.free) as divisor, a.ratio > f.free + 1e-9 as is_scaled
  from asked a
  join some_free f on f.pool_number = a.pool_number and f.window_start = a.window_start and f.window_end = a.window_end
),
some_taken as (
  select
    w.cell_number, w.window_start, w.window_end,
    cast(sum(cast(round(s.ratio / s.divisor * 2251799813685248.0) as int64)) as int64) / 2251799813685248.0 as taken
  from widths w
  join some_asked s on s.pool_number = w.pool_number and s.window_start = w.window_start and s.window_end = w.window_end
  where not w.is_whole
  group by w.cell_number, w.window_start, w.window_end
),
left_widths as (
  select
    w.pool_number, w.cell_number, w.window_start, w.window_end, w.width, w.free * (1.0 - least(1.0, coalesce(t.taken, 0.0))) as free
  from widths w
  left join some_taken t on t.cell_number = w.cell_number and t.window_start = w.window_start and t.window_end = w.window_end
  where w.is_whole
),
whole_free as (
  select
    pool_number, window_start, window_end,
    cast(sum(cast(round(width * free) as int64)) as int64) / cast(sum(width) as int64) as free
  from left_widths
  group by pool_number, window_start, window_end
),
factors as (
  -- A run's share of a cell is its share of all cells times this factor.
  select s.pool_number, w.cell_number, s.window_start, s.window_end, w.free / s.divisor / greatest(1.0, t.taken) as factor, s.is_scaled or t.taken > 1.000000001 as is_scaled
  from some_asked s
  join widths w on w.pool_number = s.pool_number and w.window_start = s.window_start and w.window_end = s.window_end
  join some_taken t on t.cell_number = w.cell_number and t.window_start = w.window_start and t.window_end = w.window_end
  union all
  select a.pool_number, w.cell_number, a.window_start, a.window_end, w.free / greatest(a.ratio, f.free), a.ratio > f.free + 1e-9
  from asked a
  join whole_free f on f.pool_number = a.pool_number and f.window_start = a.window_start and f.window_end = a.window_end
  join left_widths w on w.pool_number = a.pool_number and w.window_start = a.window_start and w.window_end = a.window_end
  union all
  select cell_number, cell_number, cast(null as timestamp), cast(null as timestamp), 1.0, false
  from cells
),
parts as (
  select
    f.cell_number, s.window_start, s.window_end, s.tracking_server, s.workspace, s.run_id, s.weight_kind, s.run_end_rule, s.is_scaled or f.is_scaled as is_scaled,
    cast(round((s.ratio_to - s.ratio_from) * f.factor * 2251799813685248.0) as int64) as part
  from pool_shares s
  join factors f on f.pool_number = s.pool_number
  where s.run_id is not null and (f.window_start is null or (f.window_start = s.window_start and f.window_end = s.window_end))
)
select cell_number, window_start, window_end, tracking_server, workspace, run_id, weight_kind, run_end_rule, is_scaled, part
from parts
where part > 0
