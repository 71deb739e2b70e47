-- one row per pool or instance type and stated machine in it. A block is a 64th of these machines, so lines need no sorting.
select
  match_method, target_key, resource_key,
  div(
    64 * (row_number() over (partition by match_method, target_key order by resource_key) - 1),
    count(*) over (partition by match_method, target_key)) as block_number
from (select distinct match_method, target_key, resource_key from timed_candidates where known_by is not null)
