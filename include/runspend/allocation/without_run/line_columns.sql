-- Columns of a bill line that are read in addition to its costs.
coalesce({line}.tags, '') as tags, coalesce(array_to_string({line}.group_keys, '\n'), '') as group_keys,
coalesce({line}.sku_meter, substr({line}.charge_description, 1, 80), '') as meter, coalesce({line}.instance_type, '') as instance_type,
coalesce({line}.machine_gpus, 0) as machine_gpus, coalesce(lower(regexp_extract({line}.resource_id, r'(?i)(?:{resource_types})')), '') as resource_type,
-- The role, without its session.
coalesce(regexp_extract({line}.iam_principal, r'^(.*:assumed-role/[^/]+)/'), {line}.iam_principal, '') as principal,
{line}.resource_id is not null or {line}.job_key is not null as is_named, coalesce({line}.is_part, false) as is_part, coalesce({line}.is_attached, false) as is_attached
