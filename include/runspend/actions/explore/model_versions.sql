-- One row per version of a registered model, with the run that made it, the highest version number first.
select
  v.tracking_server, v.workspace, v.model_version, v.stage, v.aliases, v.creation_time, v.run_id, r.run_name
from model_versions v
left join runs r on r.tracking_server = v.tracking_server and r.workspace = v.workspace and r.run_id = v.run_id
where v.model_name = @model
order by v.tracking_server, v.workspace, v.model_version desc
