-- one row per line of followed_lines and run with a part of it: the part of all lines of the machine in that charge period, in units of 2^-51
select
  f.resource_key, f.charge_period_start, f.charge_period_end, f.match_method, t.tracking_server, t.workspace, t.run_id,
  t.weight_kind, t.run_end_rule, t.is_scaled,
  cast(round(f.weight * p.ratio_to) as int64) - cast(round(f.weight * p.ratio_from) as int64) as part
from followed_lines f
join pooled_lines l on l.source = f.source and l.line_id = f.line_id and l.match_method = f.match_method and l.target_key = f.target_key
join charge_parts p on p.source = l.source and p.charge_id = l.charge_id
join pooled_targets t
  on t.match_method = l.match_method and t.target_key = l.target_key and t.window_start = l.window_start and t.window_end = l.window_end
  and t.target_number = p.target_number
where t.allocated_to = 'run'
