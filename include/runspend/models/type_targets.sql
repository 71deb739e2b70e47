-- one row per instance type, window in which runs ask for it and target: these runs, and the rest, which is nobody's.
-- All machines of the type that were billed in the window are one pool, whatever their account, region, price or bill: runs state none of these.
-- So every run pays the average price of a machine-hour. Cutting by price would come to the same: each cut would get its part of every claim.
select
  'instance_type_time' as match_method, p.target_key, s.window_start, s.window_end,
  case when s.run_id is null then 'rest' else 'run' end as allocated_to,
  s.tracking_server, s.workspace, s.run_id, cast(null as string) as owner_id,
  case when s.run_id is null then 'no_run' end as reason,
  s.weight_kind, s.run_end_rule, s.is_scaled, case when s.run_id is not null then s.nanoseconds end as nanoseconds, s.ratio_before, s.ratio_upto, s.is_last
from pool_shares s
join pools p on p.pool_number = s.pool_number
where p.match_method = 'instance_type_time'
