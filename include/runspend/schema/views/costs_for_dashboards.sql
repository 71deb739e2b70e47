-- One row per row of cost_daily_rounded, for dashboards. No string is null, and each cost is also available as a float. Each row is computed
-- only from itself.
select
  source, billing_period, charge_date, coalesce(service_provider_name, '(no provider)') as service_provider_name,
  coalesce(billing_account_id, '(no account)') as billing_account_id, coalesce(sub_account_id, '(no account)') as sub_account_id,
  coalesce(region_id, '(no region)') as region_id, coalesce(service_name, '(no service)') as service_name,
  coalesce(charge_category, '(no category)') as charge_category, cost_kind, allocated_to, part,
  coalesce(tracking_server, concat('(', part, ')')) as tracking_server, coalesce(workspace, concat('(', part, ')')) as workspace,
  coalesce(experiment_id, case when allocated_to = 'run' then '(no experiment)' else concat('(', part, ')') end) as experiment_id,
  coalesce(experiment_name, experiment_id, case when allocated_to = 'run' then '(no experiment)' else concat('(', part, ')') end)
    as experiment_name,
  coalesce(team, case when allocated_to in ('run', 'logged_model') then '(untagged)' else concat('(', part, ')') end) as team,
  coalesce(project, case when allocated_to in ('run', 'logged_model') then '(untagged)' else concat('(', part, ')') end) as project,
  coalesce(cost_center, case when allocated_to in ('run', 'logged_model') then '(untagged)' else concat('(', part, ')') end) as cost_center,
  coalesce(owner, case when allocated_to in ('run', 'logged_model') then '(untagged)' else concat('(', part, ')') end) as owner,
  coalesce(user_name, case when allocated_to = 'run' then '(no user)' else concat('(', part, ')') end) as user_name,
  coalesce(confidence, '(no rule)') as confidence, cost_status, billing_currency, is_spread,
  list_cost, contracted_cost, effective_cost, billed_cost,
  cast(cast(list_cost as string) as float64) as list_cost_float,
  cast(cast(contracted_cost as string) as float64) as contracted_cost_float,
  cast(cast(effective_cost as string) as float64) as effective_cost_float,
  cast(cast(billed_cost as string) as float64) as billed_cost_float,
  list_cost_rounded, contracted_cost_rounded, effective_cost_rounded, billed_cost_rounded,
  build_id
from (
  select
    *,
    case allocated_to
      when 'run' then 'runs'
      when 'logged_model' then 'models without a run'
      when 'orphan' then 'orphaned'
      when 'out_of_scope' then 'out of scope'
      else allocated_to
    end as part
  from cost_daily_rounded
) as labeled
