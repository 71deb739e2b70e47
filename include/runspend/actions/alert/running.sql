-- One row per active run of a budget: MLflow reports it as running, and it had a recent sign of activity. The highest cost comes first.
with
costs as (
  select
    tracking_server,
    workspace,
    run_id,
    sum({measure}) as spent
  from run_costs
  where billing_currency = @currency
  group by tracking_server, workspace, run_id
),
running as (
  select
    r.tracking_server,
    r.workspace,
    r.run_id,
    r.run_name,
    r.user_name,
    r.num_nodes,
    r.instance_type,
    r.start_time,
    c.spent
  from runs as r
  left join costs as c
    on c.tracking_server = r.tracking_server
    and c.workspace = r.workspace
    and c.run_id = r.run_id
  left join experiments as x
    on x.tracking_server = r.tracking_server
    and x.workspace = r.workspace
    and x.experiment_id = r.experiment_id
  where r.run_status = 'RUNNING'
    and r.end_time is null
    and r.purged_at is null
    and r.lifecycle_stage = 'active'
    and coalesce(r.last_sign_at, r.start_time) >= @alive_since
    and r.start_time < @now
    and {selector}
)
select
  run_id,
  run_name,
  user_name,
  num_nodes,
  instance_type,
  start_time,
  spent,
  count(*) over () as run_count
from running
order by spent desc, start_time, tracking_server, workspace, run_id
limit @top
