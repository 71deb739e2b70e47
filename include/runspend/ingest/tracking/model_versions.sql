-- One row per registered version, from `raw_versions`. The files of a version of a logged model are in the model's folder, which is in
-- `raw_owners`. If a version is a copy of another version, `storage` is the location of its files.
with found as (
  select
    *,
    coalesce(
      nullif(regexp_extract(source, '^models:/(m-[^/@]+)$', 1), ''),
      nullif(regexp_extract(coalesce(nullif(storage, ''), source), '/models/(m-[0-9a-f]{32})/artifacts/?$', 1), '')
    ) as model_id
  from raw_versions
)
select
  $server as tracking_server,
  v.workspace,
  redacted(v.model_name) as model_name,
  v.version as model_version,
  nullif(v.run_id, '') as run_id,
  v.model_id,
  redacted_place(coalesce(o.uri, nullif(v.storage, ''), nullif(v.source, ''))) as source_uri,
  v.stage,
  cast(to_json(list_transform(cast(cast(v.aliases as json) as varchar[]), lambda alias: redacted(alias))) as varchar) as aliases,
  nullif(v.status, '') as version_status,
  instant(v.creation_ms) as creation_time,
  $load_id as load_id
from found v
left join (select distinct owner_id, uri from raw_owners where owner_kind = 'logged_model') o on o.owner_id = v.model_id
order by model_name, model_version, workspace
