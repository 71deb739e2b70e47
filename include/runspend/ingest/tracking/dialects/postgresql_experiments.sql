-- One row per experiment, with its tags as JSON.
select {workspace}, e.experiment_id::text, coalesce(e.name::text, ''), coalesce(e.lifecycle_stage::text, ''), coalesce(e.artifact_location::text, ''),
       coalesce((select json_object_agg(t.key, t.value)::text from experiment_tags t
                 where t.experiment_id = e.experiment_id and t.value is not null), '{{}}'),
       coalesce(e.creation_time, 0)::bigint, coalesce(e.last_update_time, 0)::bigint
from experiments e
