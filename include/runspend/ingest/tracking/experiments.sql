-- One row per experiment, from `raw_experiments`. Text that looks like a secret is replaced everywhere.
insert into fresh_experiments by name
select
  $server as tracking_server,
  coalesce(nullif(workspace, ''), 'default') as workspace,
  experiment_id,
  redacted(nullif(experiment_name, '')) as experiment_name,
  nullif(lifecycle_stage, '') as lifecycle_stage,
  redacted_place(nullif(artifact_location, '')) as artifact_location,
  instant(creation_ms) as creation_time,
  instant(last_update_ms) as last_update_time,
  {copied_tags} as tags,
  json_extract_string(clean_tags, getvariable('experiment_tag_paths')) as dimension_values,
  $load_id as load_id
from (
  select *, redacted_document(tags) as clean_tags from (select * replace (without_recorded_costs(tags) as tags) from raw_experiments)
);
