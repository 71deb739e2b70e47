-- One row per run, charge date, cost kind and source: its cost, with the columns used to select runs. Replaces cost_daily.
  select
    c.charge_date,
    c.billing_currency,
    c.source,
    c.cost_kind,
    'run' as allocated_to,
    c.tracking_server,
    c.workspace,
    r.experiment_id,
    r.experiment_name,
    r.team,
    r.project,
    r.cost_center,
    r.owner,
    r.user_name,
    c.confidence,
    r.tags,
    r.params,
    x.tags as experiment_tags,
    c.list_cost,
    c.contracted_cost,
    c.effective_cost,
    c.billed_cost
  from run_costs_daily as c
  inner join runs as r
    on r.tracking_server = c.tracking_server
    and r.workspace = c.workspace
    and r.run_id = c.run_id
  left join experiments as x
    on x.tracking_server = r.tracking_server
    and x.workspace = r.workspace
    and x.experiment_id = r.experiment_id
