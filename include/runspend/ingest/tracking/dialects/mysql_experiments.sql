-- One row per experiment, with its tags as JSON.
select {workspace}, cast(e.experiment_id as char), coalesce(e.name, ''), coalesce(e.lifecycle_stage, ''), coalesce(e.artifact_location, ''),
       coalesce((select json_objectagg(t.key, t.value) from experiment_tags t where t.experiment_id = e.experiment_id and t.value is not null), '{{}}'),
       coalesce(e.creation_time, 0), coalesce(e.last_update_time, 0)
from experiments e
