-- The billed costs that MLflow shows for each registered model version, in the currencies of the run that made it.
-- `training`: the cost of that run and all its nested runs, without the run's own storage.
-- `storage`: the cost of that run's artifacts so far.
-- `failed_attempts`: failed or stopped runs of the same experiment that started before the version was registered. They have the same params
-- (a repeated run) or the same parent (trials of one search). Nested runs of the run itself, at any depth, count as training instead.
with recursive nested as (
  select v.tracking_server, v.workspace, v.run_id as root_id, r.run_id, 1 as distance
  from (select distinct tracking_server, workspace, run_id from model_versions where tracking_server = @server and run_id is not null) v
  join runs r on r.tracking_server = v.tracking_server and r.workspace = v.workspace and r.parent_run_id = v.run_id
  union all
  select n.tracking_server, n.workspace, n.root_id, r.run_id, n.distance + 1
  from nested n
  join runs r on r.tracking_server = n.tracking_server and r.workspace = n.workspace and r.parent_run_id = n.run_id
  where n.distance < 50
),
made as (
  select
    v.workspace, v.model_name, v.model_version, v.run_id, c.billing_currency,
    c.cost_with_children - c.storage_cost as training, c.storage_cost as storage,
    r.experiment_id, r.parent_run_id, r.params_digest, v.creation_time
  from model_versions v
  join runs r on r.tracking_server = v.tracking_server and r.workspace = v.workspace and r.run_id = v.run_id
  join run_costs c on c.tracking_server = r.tracking_server and c.workspace = r.workspace and c.run_id = r.run_id
  where v.tracking_server = @server and c.billing_currency <> ''
),
failed as (
  select r.workspace, r.experiment_id, r.run_id, r.parent_run_id, r.params_digest, r.start_time, c.billing_currency, c.effective_cost
  from runs r
  join run_costs c on c.tracking_server = r.tracking_server and c.workspace = r.workspace and c.run_id = r.run_id
  where r.tracking_server = @server and r.run_status in ('FAILED', 'KILLED') and c.billing_currency <> ''
),
-- Two joins on equality, because one join with `or` would compare every version with every failed run.
attempted as (
  select m.workspace, m.model_name, m.model_version, m.run_id as made_by, m.billing_currency, f.run_id, f.effective_cost
  from made m
  join failed f on f.workspace = m.workspace and f.experiment_id = m.experiment_id and f.billing_currency = m.billing_currency
    and f.params_digest = m.params_digest
  where f.run_id <> m.run_id and f.start_time < m.creation_time
  union distinct
  select m.workspace, m.model_name, m.model_version, m.run_id, m.billing_currency, f.run_id, f.effective_cost
  from made m
  join failed f on f.workspace = m.workspace and f.experiment_id = m.experiment_id and f.billing_currency = m.billing_currency
    and f.parent_run_id = m.parent_run_id
  where f.run_id <> m.run_id and f.start_time < m.creation_time
),
attempts as (
  select a.workspace, a.model_name, a.model_version, a.billing_currency, sum(a.effective_cost) as cost
  from attempted a
  left join (select distinct workspace, root_id, run_id from nested) n on n.workspace = a.workspace and n.root_id = a.made_by and n.run_id = a.run_id
  where n.run_id is null
  group by a.workspace, a.model_name, a.model_version, a.billing_currency
)
select
  m.workspace, m.model_name, cast(m.model_version as string) as model_version, lower(m.billing_currency) as currency,
  m.training, coalesce(a.cost, bignumeric '0') as failed_attempts, m.storage
from made m
left join attempts a
  on a.workspace = m.workspace and a.model_name = m.model_name and a.model_version = m.model_version and a.billing_currency = m.billing_currency
order by workspace, model_name, model_version, currency
