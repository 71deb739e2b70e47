-- one row per run without a machine of its own or of an ancestor: what it asked for instead
with stated as (
  select distinct tracking_server, run_id from run_resources where resource_key is not null
),
inherited as (
  select distinct a.tracking_server, a.run_id
  from run_ancestors a
  join stated s on s.tracking_server = a.tracking_server and s.run_id = a.ancestor_id
  left join estimate_elsewhere e on e.tracking_server = a.tracking_server and e.run_id = a.run_id
  where e.run_id is null
)
select
  w.tracking_server, w.workspace, w.run_id, w.start_time, w.end_time, w.last_sign_at,
  lower(w.instance_type) as instance_type, greatest(coalesce(w.num_nodes, 1), 1) as num_nodes,
  case
    when w.end_time is not null then w.end_time
    when coalesce(w.last_sign_at, w.start_time) >= timestamp_sub(@now, interval @alive_hours hour) then @now
    when w.last_sign_at is not null then w.last_sign_at
    else timestamp_add(w.start_time, interval @silent_hours hour)
  end as ended_at
from window_runs w
left join stated s on s.tracking_server = w.tracking_server and s.run_id = w.run_id
left join inherited i on i.tracking_server = w.tracking_server and i.run_id = w.run_id
where s.run_id is null and i.run_id is null and w.start_time is not null
