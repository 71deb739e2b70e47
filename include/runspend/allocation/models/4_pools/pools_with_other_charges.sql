-- one row per pool whose disks, addresses and traffic may need a separate split (`pool_other_shares`): they and the machines are billed for
-- different lengths of time (hour and day), or runs have machines of the pool by tag, job or id.
with windows as (
  select
    target_key, cost_kind <> 'compute' as is_other,
    window_end > timestamp_add(timestamp_trunc(window_start, hour), interval 1 hour) as is_long
  from timed_candidates
  where match_method = 'pool_time' and (cost_kind <> 'compute' or charge_category = 'Usage')
  union distinct
  select target_key, false, window_end > timestamp_add(timestamp_trunc(window_start, hour), interval 1 hour)
  from offered_sums
  where match_method = 'pool_time'
)
select target_key
from windows
group by target_key
having (countif(is_other and is_long) > 0 and countif(not is_other and not is_long) > 0)
  or (countif(is_other and not is_long) > 0 and countif(not is_other and is_long) > 0)
union distinct
select target_key from pool_known_uses
