-- One row per experiment with a budget in its tags. The owner is the experiment's tag `owner`, otherwise the owner of its runs if all runs with
-- an owner have the same one.
with
run_owners as (
  select
    tracking_server,
    workspace,
    experiment_id,
    min(owner) as first_owner,
    max(owner) as last_owner
  from runs
  where owner is not null
  group by tracking_server, workspace, experiment_id
)
select
  x.tracking_server,
  x.workspace,
  x.experiment_id,
  x.experiment_name,
  json_value(x.tags, '$."runspend.budget"') as budget,
  coalesce(json_value(x.tags, '$.owner'), if(o.first_owner = o.last_owner, o.first_owner, null)) as owner
from experiments as x
left join run_owners as o
  on o.tracking_server = x.tracking_server
  and o.workspace = x.workspace
  and o.experiment_id = x.experiment_id
where x.lifecycle_stage = 'active'
  and json_value(x.tags, '$."runspend.budget"') is not null
order by x.tracking_server, x.workspace, x.experiment_id
