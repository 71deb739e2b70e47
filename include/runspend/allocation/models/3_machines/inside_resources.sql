-- one row per resource that the default scope counts as the ML platform's: machines that serve runs, and buckets behind artifact URIs.
select resource_key from known_machines
union distinct
select distinct regexp_extract(artifact_uri, r'^[a-z0-9]+://([^/]+)') as resource_key
from window_runs
where starts_with(artifact_uri, 's3://') or starts_with(artifact_uri, 'gs://')
union distinct
select distinct concat('arn:aws:s3:::', regexp_extract(artifact_uri, r'^s3://([^/]+)')) as resource_key
from window_runs
where starts_with(artifact_uri, 's3://')
