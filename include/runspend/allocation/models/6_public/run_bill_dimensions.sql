-- one row per run whose lines, matched exactly or by machine, have a tag that `dimensions` names: the values with the highest cost
with named as (
  select tracking_server, workspace, run_id, line_team, line_project, line_cost_center, line_owner, sum(effective_cost) as effective_cost
  from cost_allocations
  where billing_period = @period and allocated_to = 'run' and confidence in ('exact', 'high')
    and (line_team is not null or line_project is not null or line_cost_center is not null or line_owner is not null)
  group by tracking_server, workspace, run_id, line_team, line_project, line_cost_center, line_owner
),
ranked as (
  select
    tracking_server, workspace, run_id,
    first_value(line_team ignore nulls) over w as line_team,
    first_value(line_project ignore nulls) over w as line_project,
    first_value(line_cost_center ignore nulls) over w as line_cost_center,
    first_value(line_owner ignore nulls) over w as line_owner,
    row_number() over (
      partition by tracking_server, workspace, run_id
      order by effective_cost desc, line_team, line_project, line_cost_center, line_owner) as place
  from named
  window w as (
    partition by tracking_server, workspace, run_id
    order by effective_cost desc, line_team, line_project, line_cost_center, line_owner
    rows between unbounded preceding and unbounded following)
)
select tracking_server, workspace, run_id, @period as billing_period, line_team, line_project, line_cost_center, line_owner
from ranked
where place = 1
