-- One row per experiment, with its tags as JSON.
select {workspace}, cast(e.experiment_id as text), coalesce(cast(e.name as text), ''), coalesce(cast(e.lifecycle_stage as text), ''),
       coalesce(cast(e.artifact_location as text), ''),
       (select json_group_object(cast(t.key as text), cast(t.value as text)) from experiment_tags t
        where t.experiment_id = e.experiment_id and t.value is not null),
       coalesce(cast(e.creation_time as integer), 0), coalesce(cast(e.last_update_time as integer), 0)
from experiments e
