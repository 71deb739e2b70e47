-- one row per line of a pool, except lines of stated machines: the charge period whose targets get its cost
with machines as (
  select target_key, resource_key as machine_key
  from timed_candidates
  where match_method = 'pool_time' and cost_kind = 'compute' and charge_category = 'Usage' and resource_key is not null
  union distinct
  select target_key, resource_key
  from offered_machines
  where match_method = 'pool_time' and likeness < 3
)
select c.source, c.line_id, coalesce(b.other_key, c.target_key) as target_key, c.window_start, c.window_end
from timed_candidates c
join (select distinct target_key, window_start, window_end from pool_targets) t
  on t.target_key = c.target_key and t.window_start = c.window_start and t.window_end = c.window_end
left join machines m on m.target_key = c.target_key and m.machine_key = c.resource_key
-- Disks, addresses and traffic of a pool in which runs state machines.
left join (select distinct target_key as other_key, window_start, window_end from pool_other_shares) b
  on b.other_key = concat(c.target_key, '|other charges') and b.window_start = c.window_start and b.window_end = c.window_end
  and c.cost_kind <> 'compute' and m.machine_key is null
where c.match_method = 'pool_time'
