-- one row per pool or instance type, charge period with machines of followed_machines, and target: its part of the cost of all machines that no
-- run states, in units of 2^-51
with windows as (
  select distinct match_method, target_key, window_start, window_end from followed_machines where is_reached
),
charges as (
  select
    c.match_method, c.target_key, c.window_start, c.window_end, c.source, c.charge_id,
    greatest(coalesce(c.effective_cost, bignumeric '0'), bignumeric '0') as effective_cost
  from charge_sums c
  join windows w on w.match_method = c.match_method and w.target_key = c.target_key and w.window_start = c.window_start and w.window_end = c.window_end
  where c.known_by is null and c.cost_kind = 'compute' and c.charge_category = 'Usage'
),
weighed as (
  select
    match_method, target_key, window_start, window_end, source, charge_id, cast(cast(effective_cost as string) as float64) as cost,
    cast(cast(sum(effective_cost) over w as string) as float64) as total, count(*) over w as charge_count
  from charges
  window w as (partition by match_method, target_key, window_start, window_end)
),
weights as (
  select
    match_method, target_key, window_start, window_end, source, charge_id,
    cast(round(case when total > 0 then cost / total else 1.0 / charge_count end * 2251799813685248.0) as int64) as weight
  from weighed
)
select
  c.match_method, c.target_key, c.window_start, c.window_end, t.allocated_to, t.tracking_server, t.workspace, t.run_id,
  min(t.weight_kind) as weight_kind, min(t.run_end_rule) as run_end_rule, logical_or(t.is_scaled) as is_scaled,
  cast(sum(cast(round(c.weight * p.ratio_to) as int64) - cast(round(c.weight * p.ratio_from) as int64)) as int64) as part
from weights c
join charge_parts p on p.source = c.source and p.charge_id = c.charge_id
join pooled_targets t
  on t.match_method = c.match_method and t.target_key = c.target_key and t.window_start = c.window_start and t.window_end = c.window_end
  and t.target_number = p.target_number
group by c.match_method, c.target_key, c.window_start, c.window_end, t.allocated_to, t.tracking_server, t.workspace, t.run_id
