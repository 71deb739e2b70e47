-- One row per row of cost_daily, for dashboards: no text is null, and each cost is also there as a float, and as one in whole cents.
-- What is rounded is the running sum of a billing period, so what one row loses, another gains, and sums have no drift. It is that of the
-- days before, and that of the rows of a bill's day: days are computed apart from each other.
-- The order of rows is that of the columns that sums are grouped by most. It has every column of the grain, so it never varies.
with days as (
  select
    billing_period, billing_currency, source, charge_date,
    sum(sum(list_cost)) over (w rows between unbounded preceding and current row) - sum(list_cost) as list_before,
    sum(sum(contracted_cost)) over (w rows between unbounded preceding and current row) - sum(contracted_cost) as contracted_before,
    sum(sum(effective_cost)) over (w rows between unbounded preceding and current row) - sum(effective_cost) as effective_before,
    sum(sum(billed_cost)) over (w rows between unbounded preceding and current row) - sum(billed_cost) as billed_before
  from cost_daily
  group by billing_period, billing_currency, source, charge_date
  window w as (partition by billing_period, billing_currency order by source, charge_date)
),
summed as (
  select
    *,
    sum(list_cost) over (w rows between unbounded preceding and current row) as list_sum,
    sum(contracted_cost) over (w rows between unbounded preceding and current row) as contracted_sum,
    sum(effective_cost) over (w rows between unbounded preceding and current row) as effective_sum,
    sum(billed_cost) over (w rows between unbounded preceding and current row) as billed_sum
  from cost_daily
  window w as (
    partition by billing_period, billing_currency, source, charge_date
    order by
      team, experiment_name, allocated_to, cost_kind, service_name, project, cost_center, owner, user_name, tracking_server, workspace,
      experiment_id, service_provider_name, billing_account_id, sub_account_id, region_id, charge_category, confidence, cost_status, is_spread
  )
),
cost_daily_rounded as (
  select
    s.* except (list_sum, contracted_sum, effective_sum, billed_sum),
    cast(round(list_before + list_sum, 2) - round(list_before + list_sum - list_cost, 2) as float64) as list_cost_rounded,
    cast(round(contracted_before + contracted_sum, 2) - round(contracted_before + contracted_sum - contracted_cost, 2) as float64)
      as contracted_cost_rounded,
    cast(round(effective_before + effective_sum, 2) - round(effective_before + effective_sum - effective_cost, 2) as float64)
      as effective_cost_rounded,
    cast(round(billed_before + billed_sum, 2) - round(billed_before + billed_sum - billed_cost, 2) as float64) as billed_cost_rounded
  from summed as s
  join days as d
    on d.billing_period = s.billing_period and d.billing_currency = s.billing_currency and d.source = s.source and d.charge_date = s.charge_date
)
-- From here on, each row is read by itself.
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
