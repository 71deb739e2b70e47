-- The cost of the ended top-level runs of an experiment, including their child runs: one row per server, workspace, currency and outcome.
-- Each quantile is the cost of one of the runs (nearest rank), so both engines return the same value. Runs with provisional costs count too,
-- because they have ended.
with ended as (
  select
    c.tracking_server, c.workspace, c.billing_currency, c.run_status = 'FINISHED' as is_finished, c.cost_with_children as cost,
    case when c.cost_with_children <> c.effective_cost then 1 else 0 end as is_parent,
    timestamp_diff(c.end_time, c.start_time, microsecond) / 3600000000 as hours
  from run_costs c
  join runs r on r.tracking_server = c.tracking_server and r.workspace = c.workspace and r.run_id = c.run_id
  where c.experiment_name = @experiment and c.start_time >= @since and c.start_time < @now and c.end_time is not null and c.parent_run_id is null
    and c.run_status in ('FINISHED', 'FAILED', 'KILLED') and c.billing_currency <> '' {with_params}
),
placed as (
  select
    tracking_server, workspace, billing_currency, is_finished, cost, hours, is_parent,
    row_number() over (partition by tracking_server, workspace, billing_currency, is_finished order by cost) as place,
    row_number() over (partition by tracking_server, workspace, billing_currency, is_finished order by hours) as hours_place,
    count(*) over (partition by tracking_server, workspace, billing_currency, is_finished) as runs
  from ended
)
select
  tracking_server, workspace, billing_currency, is_finished, max(runs) as runs,
  max(case when place = cast(ceil(runs * 0.5) as int64) then cost end) as median,
  max(case when place = cast(ceil(runs * 0.1) as int64) then cost end) as low,
  max(case when place = cast(ceil(runs * 0.9) as int64) then cost end) as high,
  max(case when hours_place = cast(ceil(runs * 0.5) as int64) then hours end) as median_hours,
  max(is_parent) = 1 as has_nested
from placed
group by tracking_server, workspace, billing_currency, is_finished
order by tracking_server, workspace, billing_currency, is_finished desc
