-- One row per owner or registered version whose location is spelled irregularly, so that `plan.sql` cannot compare it.
select tracking_server, owner_kind, owner_id, label, uri
from (
  select tracking_server, 'run' as owner_kind, run_id as owner_id, concat('run ', run_id) as label, artifact_uri as uri, {run_location} as location
  from runs
  where artifact_uri is not null
  union all
  select tracking_server, owner_kind, owner_id, concat(replace(owner_kind, '_', ' '), ' ', owner_id), uri, {owner_location}
  from artifact_owners
  where uri is not null
  union all
  select tracking_server, 'version', model_name, {version_label}, source_uri, {version_location}
  from model_versions
  where source_uri is not null
) as owners
where regexp_contains(location, @stored) and not regexp_contains(location, @regular)
order by tracking_server, owner_kind, owner_id, label, uri
