-- The range of costs of the finished top-level runs of each experiment since @since, including their child runs. It is the range of the
-- middle 80%, or of all runs if there are fewer than @enough. Servers and workspaces may have experiments of the same name.
with ended as (
  select tracking_server, workspace, experiment_id, experiment_name, billing_currency, cost_with_children as cost
  from run_costs
  where start_time >= @since and start_time < @now and end_time is not null and parent_run_id is null and run_status = 'FINISHED'
    and billing_currency <> '' and experiment_name is not null
),
placed as (
  select
    e.*, row_number() over (partition by tracking_server, workspace, experiment_id, experiment_name, billing_currency order by cost) as place,
    count(*) over (partition by tracking_server, workspace, experiment_id, experiment_name, billing_currency) as runs
  from ended e
)
select
  tracking_server, workspace, experiment_id, experiment_name as experiment, billing_currency as currency, max(runs) as runs,
  max(case when place = (case when runs < @enough then 1 else cast(ceil(runs * 0.1) as int64) end) then cost end) as low,
  max(case when place = (case when runs < @enough then runs else cast(ceil(runs * 0.9) as int64) end) then cost end) as high
from placed
group by tracking_server, workspace, experiment_id, experiment_name, billing_currency
order by experiment, tracking_server, workspace, experiment_id, currency
