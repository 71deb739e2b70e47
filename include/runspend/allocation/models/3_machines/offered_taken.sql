-- one row per pool or instance type, stated machine offered to it, charge period and time range. During the time range, runs that state the
-- machine use `taken` of its `units`
select
  o.match_method, o.target_key, t.resource_key, t.window_start, t.window_end, t.taken_from, t.taken_to, t.taken, t.units
from machine_taken t
join (select distinct match_method, target_key, resource_key, window_start, window_end from offered_lines) o
  on o.resource_key = t.resource_key and o.window_start = t.window_start and o.window_end = t.window_end
