-- One row per charge and target, with the columns of cost_daily that views use, plus five: the run, the registered model, the machine, its
-- instance type and the run's status. Charges longer than a day come from cost_daily, which spreads them over their days. They have none of
-- these five columns.
-- A machine is a resource with an instance type or compute cost. Its type is the one billed on that day, otherwise in that month. Types are
-- matched by account, because machines of two accounts may have the same name. If several types match, the last by name is used.
-- If a run made versions of several models, the first model by name is used.
with types as (
  select source, billing_period, coalesce(sub_account_id, '') as sub_account_id, resource_id, charge_date, max(instance_type) as instance_type
  from billing_lines
  where resource_id is not null and instance_type is not null
    and billing_period in (select billing_period from cost_daily where charge_date >= @since and charge_date < @until)
  group by source, billing_period, coalesce(sub_account_id, ''), resource_id, charge_date
)
select
  a.source, a.billing_period, a.charge_date, a.service_provider_name, a.sub_account_id, a.region_id, a.service_name, a.cost_kind, a.allocated_to,
  a.tracking_server, coalesce(r.experiment_name, e.experiment_name) as experiment_name, case when r.run_id is null then a.line_team else r.team end as team,
  case when r.run_id is null then a.line_project else r.project end as project,
  case when r.run_id is null then a.line_cost_center else r.cost_center end as cost_center,
  case when r.run_id is null then a.line_owner else r.owner end as owner, r.user_name, a.confidence, a.billing_currency,
  a.run_id, m.model_name, case when t.instance_type is not null or a.cost_kind = 'compute' then a.resource_id end as machine,
  coalesce(d.instance_type, t.instance_type, p.instance_type) as instance_type, r.run_status, a.workspace, a.list_cost, a.contracted_cost, a.effective_cost, a.billed_cost
from cost_allocations a
left join (
  select
    tracking_server, workspace, run_id, min(experiment_name) as experiment_name, min(user_name) as user_name, min(team) as team,
    min(run_status) as run_status, min(project) as project, min(cost_center) as cost_center, min(owner) as owner
  from run_costs
  where last_charge_date >= @since and first_charge_date < @until
  group by tracking_server, workspace, run_id
) r on r.tracking_server = a.tracking_server and r.workspace = a.workspace and r.run_id = a.run_id
left join (
  select tracking_server, workspace, run_id, min(model_name) as model_name
  from model_versions
  where run_id is not null
  group by tracking_server, workspace, run_id
) m on m.tracking_server = a.tracking_server and m.workspace = a.workspace and m.run_id = a.run_id
left join artifact_owners o
  on o.owner_kind = 'logged_model' and o.tracking_server = a.tracking_server and o.workspace = a.workspace and o.owner_id = a.owner_id
left join experiments e on e.tracking_server = o.tracking_server and e.workspace = o.workspace and e.experiment_id = o.experiment_id
left join types d on d.source = a.source and d.billing_period = a.billing_period and d.sub_account_id = coalesce(a.sub_account_id, '') and d.resource_id = a.resource_id
  and d.charge_date = a.charge_date
left join (
  select source, billing_period, sub_account_id, resource_id, max(instance_type) as instance_type
  from types
  group by source, billing_period, sub_account_id, resource_id
) t on t.source = a.source and t.billing_period = a.billing_period and t.sub_account_id = coalesce(a.sub_account_id, '') and t.resource_id = a.resource_id
left join (
  select billing_period, pool_key, max(instance_type) as instance_type from instance_type_hours group by billing_period, pool_key
) p on p.billing_period = a.billing_period and p.pool_key = a.pool_key
where a.charge_date >= @since and a.charge_date < @until
  and (a.allocated_to = 'out_of_scope' or at_most_a_day(a.charge_period_start, a.charge_period_end))
union all
select
  source, billing_period, charge_date, service_provider_name, sub_account_id, region_id, service_name, cost_kind, allocated_to,
  tracking_server, experiment_name, team, project, cost_center, owner, user_name, confidence, billing_currency,
  cast(null as string), cast(null as string), cast(null as string), cast(null as string), cast(null as string), cast(null as string), list_cost, contracted_cost, effective_cost, billed_cost
from cost_daily
where is_spread and charge_date >= @since and charge_date < @until
