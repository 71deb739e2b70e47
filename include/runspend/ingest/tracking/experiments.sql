-- One row per experiment, from `raw_experiments`. In all texts, parts that look like a secret are replaced.
insert into fresh_experiments by name
-- All strings of an experiment are in one list, because DuckDB plans the many patterns of `redacted` again for each use of it.
with texts as (
  select
    e.*,
    place_parts(nullif(artifact_location, '')) as place,
    values_of(tags) as tag_values
  from (select * replace (without_recorded_costs(tags) as tags) from raw_experiments) e
),
redacted_texts as (
  select x.*, list_transform(list_concat([nullif(experiment_name, ''), place.rest], tag_values), lambda text: redacted(text)) as clean from texts x
),
cleaned as (
  select x.*, with_values(tags, clean[3:]) as clean_tags from redacted_texts x
)
select
  $server as tracking_server,
  coalesce(nullif(workspace, ''), 'default') as workspace,
  experiment_id,
  clean[1] as experiment_name,
  nullif(lifecycle_stage, '') as lifecycle_stage,
  place.kept || clean[2] as artifact_location,
  instant(creation_ms) as creation_time,
  instant(last_update_ms) as last_update_time,
  {copied_tags} as tags,
  json_extract_string(clean_tags, getvariable('experiment_tag_paths')) as dimension_values,
  $load_id as load_id
from cleaned;
