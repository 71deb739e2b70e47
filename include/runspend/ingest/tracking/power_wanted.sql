-- The power metrics of runs on measured machines, one row per run and metric, from `use_keys`. A run uses the machines that it states.
-- If it states none, it uses those of its pool. If there are several machines, only the node in the metric's name shows which of them has
-- the GPU. `step_stride` is chosen so that $per_hour points are read for each hour of the run, $points at most, evenly spread.
insert into power_wanted by name
with logged as (
  select
    workspace, run_id, start_month, pool_key, start_time,
    greatest(1, ceil(epoch(coalesce(end_time, last_sign_at) - start_time) / 3600)) as hours,
    unnest(string_split(use_keys, chr(31))) as entry
  from fresh_runs
  where use_keys <> ''
),
parsed as (
  select * exclude (entry), split_part(entry, chr(30), 1) as metric, try_cast(split_part(entry, chr(30), 2) as bigint) as last_step from logged
),
power as (
  select
    *,
    cast(regexp_extract(metric, '(?s)gpu_([0-9]+)_power_usage_watts$', 1) as bigint) as gpu,
    regexp_extract(metric, '(?s)^system/(.+)/gpu_[0-9]+_power_usage_watts$', 1) as node
  from parsed
  where regexp_full_match(metric, '(?s)system/(.+/)?gpu_[0-9]{1,4}_power_usage_watts') and last_step >= 0
),
stated as (
  select distinct r.workspace, r.run_id, r.resource_key from fresh_resources r semi join power p on p.workspace = r.workspace and p.run_id = r.run_id
),
pooled as (
  select distinct p.workspace, p.run_id, m.resource_key
  from power p
  join pool_machines m on m.pool = split_part(p.pool_key, '|', 1)
  anti join stated s on s.workspace = p.workspace and s.run_id = p.run_id
),
places as (
  select *, count(*) over (partition by workspace, run_id) as machines from (select * from stated union all select * from pooled)
)
select
  p.workspace, p.run_id, p.start_month, epoch_ms(p.start_time) as start_ms, p.metric, p.gpu, m.machine as resource_id, p.last_step,
  cast(p.last_step // least($points, cast(p.hours as bigint) * $per_hour) + 1 as bigint) as step_stride
from power p
join places l on l.workspace = p.workspace and l.run_id = p.run_id
join measured_machines m on m.resource_key = l.resource_key
where l.machines = 1 or l.resource_key = {node_key}
