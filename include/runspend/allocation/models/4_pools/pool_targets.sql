-- one row per pool, charge period and target: runs that asked for machines of the pool, and idle time.
-- A charge period without claims is idle, because a pool is known to serve runs.
select
  'pool_time' as match_method, p.target_key, s.window_start, s.window_end,
  case when s.run_id is null then 'idle' else 'run' end as allocated_to,
  s.tracking_server, s.workspace, s.run_id, cast(null as string) as owner_id,
  case when s.run_id is null then 'no_run' end as reason,
  s.weight_kind, s.run_end_rule, s.is_scaled, case when s.run_id is not null then s.nanoseconds end as nanoseconds, s.ratio_from, s.ratio_to, s.is_last
from pool_shares s
join pools p on p.pool_number = s.pool_number
where p.match_method = 'pool_time'
union all
select
  'pool_time', p.target_key, w.window_start, w.window_end, 'idle', cast(null as string), cast(null as string), cast(null as string), cast(null as string),
  'no_run', cast(null as string), cast(null as string), false, cast(null as int64), 0.0, 1.0, true
from pool_windows w
join pools p on p.pool_number = w.pool_number
left join (select distinct pool_number, window_start, window_end from pool_shares) s
  on s.pool_number = w.pool_number and s.window_start = w.window_start and s.window_end = w.window_end
where p.match_method = 'pool_time' and s.pool_number is null
