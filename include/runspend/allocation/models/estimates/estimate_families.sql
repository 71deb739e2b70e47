-- one row per run: the name of its family, which is its topmost ancestor
with roots as (
  select tracking_server, run_id, ancestor_id as root_id
  from run_ancestors
  qualify row_number() over (partition by tracking_server, run_id order by distance desc, ancestor_id) = 1
)
select w.tracking_server, w.run_id, concat('family ', w.tracking_server, ' ', coalesce(r.root_id, w.run_id)) as family
from window_runs w
left join roots r on r.tracking_server = w.tracking_server and r.run_id = w.run_id
