-- one row per run that started in the month, with the cost of its whole life. If it has costs in several currencies, one row per currency
with month_runs as (
  select
    tracking_server, workspace, run_id, start_month, run_name, experiment_id, experiment_name, user_name, run_status, start_time, end_time,
    parent_run_id, team, project, cost_center, owner, team_from, project_from, cost_center_from, owner_from
  from runs
  where start_month = @period
),
bill_dimensions as (
  -- The latest values from the bills.
  select b.tracking_server, b.workspace, b.run_id, b.line_team, b.line_project, b.line_cost_center, b.line_owner
  from run_bill_dimensions b
  join month_runs m on m.tracking_server = b.tracking_server and m.workspace = b.workspace and m.run_id = b.run_id
  qualify row_number() over (partition by b.tracking_server, b.workspace, b.run_id order by b.billing_period desc) = 1
),
days as (
  -- The costs of a run and of its descendants. Costs of descendants count only in cost_with_children.
  select
    d.tracking_server, d.run_id, d.billing_currency, true as is_own, d.charge_date, d.cost_kind, d.confidence, d.cost_status,
    d.list_cost, d.contracted_cost, d.effective_cost, d.billed_cost, d.unused_cost, d.overhead_cost, d.machine_seconds, d.gpu_seconds,
    d.effective_cost as cost_with_children
  from run_costs_daily d
  join month_runs m on m.tracking_server = d.tracking_server and m.workspace = d.workspace and m.run_id = d.run_id
  union all
  select
    a.tracking_server, a.ancestor_id, d.billing_currency, false, cast(null as date), cast(null as string), cast(null as string), cast(null as string),
    cast(null as bignumeric), cast(null as bignumeric), cast(null as bignumeric), cast(null as bignumeric), cast(null as bignumeric), cast(null as bignumeric),
    cast(null as float64), cast(null as float64), d.effective_cost
  from run_descendants a
  join run_costs_daily d on d.tracking_server = a.tracking_server and d.run_id = a.run_id
),
costs as (
  select
    tracking_server, run_id, billing_currency, logical_or(is_own) as is_charged,
    sum(list_cost) as list_cost, sum(contracted_cost) as contracted_cost, sum(effective_cost) as effective_cost, sum(billed_cost) as billed_cost,
    sum(case when cost_kind = 'compute' then effective_cost end) as compute_cost,
    sum(case when cost_kind = 'storage' then effective_cost end) as storage_cost,
    sum(case when cost_kind = 'network' then effective_cost end) as network_cost,
    sum(case when cost_kind = 'llm' then effective_cost end) as llm_cost,
    sum(case when cost_kind = 'other' then effective_cost end) as other_cost,
    sum(unused_cost) as unused_cost,
    sum(overhead_cost) as overhead_cost,
    sum(cost_with_children) as cost_with_children,
    -- Whole microseconds are added, because a sum of floats depends on the order of rows.
    sum(cast(round(machine_seconds * 1e6) as int64)) / 1e6 as machine_seconds,
    sum(cast(round(gpu_seconds * 1e6) as int64)) / 1e6 as gpu_seconds,
    min(charge_date) as first_charge_date, max(charge_date) as last_charge_date,
    max(case confidence when 'low' then 4 when 'medium' then 3 when 'high' then 2 when 'exact' then 1 end) as worst,
    countif(cost_status = 'provisional') as open_days
  from days
  group by tracking_server, run_id, billing_currency
)
select
  m.tracking_server, m.workspace, m.run_id, m.start_month, coalesce(c.billing_currency, '') as billing_currency,
  m.run_name, m.experiment_id, m.experiment_name, m.user_name, m.run_status, m.start_time, m.end_time, m.parent_run_id,
  -- If `dimensions` says so, the run's own value takes precedence over the bill's.
  case when m.team is not null and strpos(@team_before_bill, concat('|', m.team_from, '|')) > 0 then m.team else coalesce(b.line_team, m.team) end as team,
  case when m.project is not null and strpos(@project_before_bill, concat('|', m.project_from, '|')) > 0 then m.project else coalesce(b.line_project, m.project) end as project,
  case when m.cost_center is not null and strpos(@cost_center_before_bill, concat('|', m.cost_center_from, '|')) > 0 then m.cost_center else coalesce(b.line_cost_center, m.cost_center) end as cost_center,
  case when m.owner is not null and strpos(@owner_before_bill, concat('|', m.owner_from, '|')) > 0 then m.owner else coalesce(b.line_owner, m.owner) end as owner,
  case when m.team is not null and strpos(@team_before_bill, concat('|', m.team_from, '|')) > 0 then m.team_from when b.line_team is not null then 'line.tag' else m.team_from end as team_from,
  case when m.project is not null and strpos(@project_before_bill, concat('|', m.project_from, '|')) > 0 then m.project_from when b.line_project is not null then 'line.tag' else m.project_from end as project_from,
  case when m.cost_center is not null and strpos(@cost_center_before_bill, concat('|', m.cost_center_from, '|')) > 0 then m.cost_center_from when b.line_cost_center is not null then 'line.tag' else m.cost_center_from end as cost_center_from,
  case when m.owner is not null and strpos(@owner_before_bill, concat('|', m.owner_from, '|')) > 0 then m.owner_from when b.line_owner is not null then 'line.tag' else m.owner_from end as owner_from,
  coalesce(c.list_cost, bignumeric '0') as list_cost,
  coalesce(c.contracted_cost, bignumeric '0') as contracted_cost,
  coalesce(c.effective_cost, bignumeric '0') as effective_cost,
  coalesce(c.billed_cost, bignumeric '0') as billed_cost,
  coalesce(c.compute_cost, bignumeric '0') as compute_cost,
  coalesce(c.storage_cost, bignumeric '0') as storage_cost,
  coalesce(c.network_cost, bignumeric '0') as network_cost,
  coalesce(c.llm_cost, bignumeric '0') as llm_cost,
  coalesce(c.other_cost, bignumeric '0') as other_cost,
  coalesce(c.unused_cost, bignumeric '0') as unused_cost,
  coalesce(c.overhead_cost, bignumeric '0') as overhead_cost,
  coalesce(c.cost_with_children, bignumeric '0') as cost_with_children,
  c.machine_seconds, c.gpu_seconds, c.first_charge_date, c.last_charge_date,
  case c.worst when 4 then 'low' when 3 then 'medium' when 2 then 'high' when 1 then 'exact' end as confidence,
  case when not coalesce(c.is_charged, false) then 'none' when c.open_days > 0 then 'provisional' else 'final' end as cost_status
from month_runs m
left join bill_dimensions b on b.tracking_server = m.tracking_server and b.workspace = m.workspace and b.run_id = m.run_id
left join costs c on c.tracking_server = m.tracking_server and c.run_id = m.run_id
