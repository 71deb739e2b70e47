-- One row per currency and run whose cost belongs to a registered model. The files of its versions have one row per server, workspace and
-- currency, with the role files and an empty run ID. The roles of runs are:
--   made    a version came from this run.
--   nested  the run is below such a run, at most 50 levels deep.
--   failed  the run failed or was killed, and started in the same experiment before the version was registered. It has the params of a run
--           that made a version (a repetition), or the same parent (a trial of the same search).
-- If a run has several roles, the first in this list counts, so that its cost counts once.
with recursive versions as (
  select tracking_server, workspace, run_id, model_id, creation_time from model_versions where model_name = @model
),
nested as (
  select v.tracking_server, v.workspace, r.run_id, 1 as distance
  from (select distinct tracking_server, workspace, run_id from versions where run_id is not null) v
  join runs r on r.tracking_server = v.tracking_server and r.workspace = v.workspace and r.parent_run_id = v.run_id
  union all
  select n.tracking_server, n.workspace, r.run_id, n.distance + 1
  from nested n
  join runs r on r.tracking_server = n.tracking_server and r.workspace = n.workspace and r.parent_run_id = n.run_id
  where n.distance < 50
),
makers as (
  select v.tracking_server, v.workspace, v.run_id, r.experiment_id, r.parent_run_id, r.params_digest, max(v.creation_time) as creation_time
  from versions v
  join runs r on r.tracking_server = v.tracking_server and r.workspace = v.workspace and r.run_id = v.run_id
  group by v.tracking_server, v.workspace, v.run_id, r.experiment_id, r.parent_run_id, r.params_digest
),
failed as (
  select tracking_server, workspace, experiment_id, run_id, parent_run_id, params_digest, start_time
  from runs
  where run_status in ('FAILED', 'KILLED')
),
-- Two joins on equal columns, because one join with `or` would compare every version with every failed run.
roles as (
  select tracking_server, workspace, run_id, 1 as role from makers
  union all
  select tracking_server, workspace, run_id, 2 from nested
  union all
  select f.tracking_server, f.workspace, f.run_id, 3
  from makers m
  join failed f
    on f.tracking_server = m.tracking_server and f.workspace = m.workspace and f.experiment_id = m.experiment_id and f.params_digest = m.params_digest
  where f.start_time < m.creation_time
  union all
  select f.tracking_server, f.workspace, f.run_id, 3
  from makers m
  join failed f
    on f.tracking_server = m.tracking_server and f.workspace = m.workspace and f.experiment_id = m.experiment_id and f.parent_run_id = m.parent_run_id
  where f.start_time < m.creation_time
),
chosen as (
  select tracking_server, workspace, run_id, min(role) as role from roles group by tracking_server, workspace, run_id
)
select
  case c.role when 1 then 'made' when 2 then 'nested' else 'failed' end as role, c.tracking_server, c.workspace, c.run_id, r.run_name, r.experiment_name,
  r.run_status, r.start_time, r.billing_currency, r.effective_cost, coalesce(r.storage_cost, bignumeric '0') as storage_cost,
  coalesce(r.llm_cost, bignumeric '0') as llm_cost
from chosen c
join run_costs r on r.tracking_server = c.tracking_server and r.workspace = c.workspace and r.run_id = c.run_id
where r.billing_currency <> ''
union all
select
  'files', a.tracking_server, a.workspace, '', cast(null as string), cast(null as string), cast(null as string), cast(null as timestamp),
  a.billing_currency, sum(a.effective_cost), sum(a.effective_cost), bignumeric '0'
from (select distinct tracking_server, workspace, model_id from versions where model_id is not null) v
join cost_allocations a
  on a.allocated_to = 'logged_model' and a.tracking_server = v.tracking_server and a.workspace = v.workspace and a.owner_id = v.model_id
group by a.tracking_server, a.workspace, a.billing_currency
order by effective_cost desc, tracking_server, workspace, run_id, billing_currency
