-- one row per charge date, length of the charge in days, and combination of the columns of cost_daily before the costs
with charges as (
  -- Grouped by run first, because names of runs are long. A charge longer than a day is spread over several days.
  select
    source, billing_period, service_provider_name, billing_account_id, sub_account_id, region_id, service_name, charge_category, cost_kind, allocated_to,
    tracking_server, workspace, run_id, owner_id, line_team, line_project, line_cost_center, line_owner, confidence, cost_status, billing_currency, charge_date,
    case
      when allocated_to = 'out_of_scope' or at_most_a_day(charge_period_start, charge_period_end) then 1
      else date_diff(date(timestamp_sub(charge_period_end, interval 1 microsecond)), charge_date, day) + 1
    end as days,
    sum(list_cost) as list_cost, sum(contracted_cost) as contracted_cost, sum(effective_cost) as effective_cost, sum(billed_cost) as billed_cost
  from cost_allocations
  where billing_period = @period
  group by
    source, billing_period, service_provider_name, billing_account_id, sub_account_id, region_id, service_name, charge_category, cost_kind, allocated_to,
    tracking_server, workspace, run_id, owner_id, line_team, line_project, line_cost_center, line_owner, confidence, cost_status, billing_currency, charge_date, days
),
named as (
  select
    d.source, d.billing_period, d.service_provider_name, d.billing_account_id, d.sub_account_id, d.region_id, d.service_name, d.charge_category,
    d.cost_kind, d.allocated_to, d.tracking_server, d.workspace, coalesce(r.experiment_id, o.experiment_id) as experiment_id,
    coalesce(r.experiment_name, e.experiment_name) as experiment_name,
    -- The run's own value takes precedence over the bill's if `dimensions` says so. Cost without a run keeps the value of the bill.
    case when r.team is not null and strpos(@team_before_bill, concat('|', r.team_from, '|')) > 0 then r.team else coalesce(b.line_team, r.team, d.line_team) end as team,
    case when r.project is not null and strpos(@project_before_bill, concat('|', r.project_from, '|')) > 0 then r.project else coalesce(b.line_project, r.project, d.line_project) end as project,
    case when r.cost_center is not null and strpos(@cost_center_before_bill, concat('|', r.cost_center_from, '|')) > 0 then r.cost_center else coalesce(b.line_cost_center, r.cost_center, d.line_cost_center) end as cost_center,
    case when r.owner is not null and strpos(@owner_before_bill, concat('|', r.owner_from, '|')) > 0 then r.owner else coalesce(b.line_owner, r.owner, d.line_owner) end as owner,
    r.user_name, d.confidence, d.cost_status, d.billing_currency, d.charge_date, d.days,
    d.list_cost, d.contracted_cost, d.effective_cost, d.billed_cost
  from charges d
  left join runs r on r.tracking_server = d.tracking_server and r.workspace = d.workspace and r.run_id = d.run_id
  left join run_bill_dimensions b on b.billing_period = @period and b.tracking_server = d.tracking_server and b.workspace = d.workspace and b.run_id = d.run_id
  left join artifact_owners o on o.owner_kind = 'logged_model' and o.tracking_server = d.tracking_server and o.workspace = d.workspace and o.owner_id = d.owner_id
  left join experiments e on e.tracking_server = o.tracking_server and e.workspace = o.workspace and e.experiment_id = o.experiment_id
)
select
  source, billing_period, service_provider_name, billing_account_id, sub_account_id, region_id, service_name, charge_category, cost_kind, allocated_to,
  tracking_server, workspace, experiment_id, experiment_name, team, project, cost_center, owner, user_name, confidence, cost_status, billing_currency, charge_date, days,
  sum(list_cost) as list_cost, sum(contracted_cost) as contracted_cost, sum(effective_cost) as effective_cost, sum(billed_cost) as billed_cost
from named
group by
  source, billing_period, service_provider_name, billing_account_id, sub_account_id, region_id, service_name, charge_category, cost_kind, allocated_to,
  tracking_server, workspace, experiment_id, experiment_name, team, project, cost_center, owner, user_name, confidence, cost_status, billing_currency, charge_date, days
