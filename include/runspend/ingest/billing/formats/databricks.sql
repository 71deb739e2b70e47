-- One row per delivered usage record of any record type. The retraction of a correction has a negative quantity, so the sum is correct.
with records as (
  select
    *,
    case when json_valid(usage_metadata) then usage_metadata end as fields,
    exact_decimal(usage_quantity) as quantity,
    instant(usage_start_time) as started_at,
    instant(usage_end_time) as ended_at,
    upper(trim(cloud)) as cloud_name,
    upper(coalesce(trim(billing_origin_product), '')) as product
  from databricks_usage
),
-- In a CSV, a struct is one JSON text. In Parquet and JSON lines, each of its fields is a column.
readable as (
  select
    row_number, account_id, workspace_id, trim(sku_name) as sku_name, cloud, cloud_name, trim(usage_unit) as usage_unit, usage_quantity, quantity, started_at, ended_at,
    usage_start_time, usage_end_time, record_type, usage_type, product, billing_origin_product,
    coalesce(try_cast(usage_date as date), day_of(started_at)) as on_day,
    coalesce(serving_type, case when json_valid(product_features) then json_extract_string(product_features, '$.serving_type') end) as serving_kind,
    coalesce(cluster_id, fields ->> 'cluster_id') as cluster_id,
    coalesce(job_id, fields ->> 'job_id') as job_id,
    coalesce(job_run_id, fields ->> 'job_run_id') as job_run_id,
    coalesce(job_name, fields ->> 'job_name') as job_name,
    coalesce(notebook_id, fields ->> 'notebook_id') as notebook_id,
    coalesce(notebook_path, fields ->> 'notebook_path') as notebook_path,
    coalesce(warehouse_id, fields ->> 'warehouse_id') as warehouse_id,
    coalesce(instance_pool_id, fields ->> 'instance_pool_id') as instance_pool_id,
    coalesce(node_type, fields ->> 'node_type') as node_type,
    coalesce(dlt_pipeline_id, fields ->> 'dlt_pipeline_id') as dlt_pipeline_id,
    coalesce(endpoint_id, fields ->> 'endpoint_id') as endpoint_id,
    coalesce(endpoint_name, fields ->> 'endpoint_name') as endpoint_name,
    coalesce(run_name, fields ->> 'run_name') as run_name,
    coalesce(app_id, fields ->> 'app_id') as app_id,
    coalesce(app_name, fields ->> 'app_name') as app_name,
    coalesce(database_instance_id, fields ->> 'database_instance_id') as database_instance_id,
    coalesce(usage_policy_id, fields ->> 'usage_policy_id', fields ->> 'budget_policy_id') as usage_policy_id,
    coalesce(source_region, fields ->> 'source_region') as source_region,
    coalesce(
      nullif(trim(custom_tags), ''),
      cast(to_json(map_from_entries(list_transform(
        json_keys(tag_columns), lambda k: {'k': substr(k, 13), 'v': json_extract_string(tag_columns, '/' || replace(replace(k, '~', '~0'), '/', '~1'))}
      ))) as varchar)
    ) as own_custom_tags
  from records
),
-- databricks.py has checked that each key has only one price at any time. So the joins below cannot multiply rows.
account_prices as (
  select * from databricks_price_list where price_table = 'account_prices' and getvariable('prices_from') = 'account_prices'
),
list_prices as (
  select * from databricks_price_list where price_table = 'list_prices'
),
priced as (
  select
    u.*,
    a.default_price as account_price,
    l.default_price as list_price,
    -- Exact to 18 decimals. A public price has far fewer decimals, and a discount has at most six.
    cast(cast(l.effective_list_price as decimal(31, 18)) * cast(1 - cast(getvariable('discount') as decimal(7, 6)) as decimal(7, 6)) as decimal(38, 18)) as public_price,
    a.currency_code as account_currency,
    l.currency_code as list_currency,
    a.valid_from as account_from,
    l.valid_from as list_from
  from readable u
  left join account_prices a
    on a.sku_name = u.sku_name and a.cloud = u.cloud_name and a.usage_unit = u.usage_unit and (a.account_id is null or a.account_id = u.account_id)
    and a.valid_from <= u.ended_at and (a.valid_to is null or u.ended_at < a.valid_to)
  left join list_prices l
    on l.sku_name = u.sku_name and l.cloud = u.cloud_name and l.usage_unit = u.usage_unit and (l.account_id is null or l.account_id = u.account_id)
    and l.valid_from <= u.ended_at and (l.valid_to is null or u.ended_at < l.valid_to)
),
-- The unit price is the account's price, or else a public price. A public price makes the cost an estimate, because it does not include
-- the account's discounts and commitments.
costed as (
  select
    *,
    account_price is null as is_estimate,
    coalesce(account_price, case when getvariable('prices_else') = 'list' or getvariable('prices_from') = 'list' then public_price end) as unit_price,
    coalesce(account_currency, list_currency) as currency,
    coalesce(account_from, list_from) as price_from,
    case when coalesce(account_currency, list_currency) = list_currency then list_price end as comparable_list_price
  from priced
),
-- If a job has tasks, MLflow tags a run with the run id of its task, but usage has the run id of the job. One row per task run.
task_runs as (
  select workspace_id, run_id, min(job_run_id) as job_run_id
  from databricks_task_runs
  where run_id <> job_run_id
  group by all
),
-- A notebook that another notebook calls has its own run, which names only its cluster.
-- It belongs to the job of the cluster if only one job run used the cluster.
cluster_runs as (
  select t.workspace_id, unnest(case when json_valid(t.compute_ids) then json_extract_string(t.compute_ids, '$[*]') end) as compute_id, t.job_run_id
  from databricks_task_runs t
),
notebook_runs as (
  select j.workspace_id, j.run_id, unnest(case when json_valid(j.compute_ids) then json_extract_string(j.compute_ids, '$[*]') end) as compute_id
  from databricks_job_runs j
  where j.run_type = 'WORKFLOW_RUN'
),
called_runs as (
  select n.workspace_id, n.run_id, min(c.job_run_id) as job_run_id
  from notebook_runs n
  join cluster_runs c on c.workspace_id = n.workspace_id and c.compute_id = n.compute_id
  group by all
  having count(distinct c.job_run_id) = 1
),
inner_runs as (
  select * from task_runs
  union all
  select * from called_runs anti join task_runs using (workspace_id, run_id)
),
other_names as (
  select workspace_id, job_run_id, string_agg(run_id, ' ' order by run_id) as names
  from inner_runs
  group by all
),
identified as (
  select
    c.*,
    coalesce(o.job_run_id, c.job_run_id) as whole_job_run_id,
    -- The resource is the first of these that has an id. Machines come before the jobs and pools that they belong to.
    list_filter([
      {'id': cluster_id, 'kind': 'Cluster', 'name': null},
      {'id': warehouse_id, 'kind': 'SQL warehouse', 'name': null},
      {'id': endpoint_id, 'kind': 'Endpoint', 'name': endpoint_name},
      {'id': dlt_pipeline_id, 'kind': 'Pipeline', 'name': null},
      {'id': app_id, 'kind': 'App', 'name': app_name},
      {'id': database_instance_id, 'kind': 'Database instance', 'name': null},
      {'id': c.job_id, 'kind': 'Job', 'name': job_name},
      {'id': notebook_id, 'kind': 'Notebook', 'name': notebook_path},
      {'id': endpoint_name, 'kind': 'Endpoint', 'name': endpoint_name},
      {'id': instance_pool_id, 'kind': 'Instance pool', 'name': null}
    ], lambda r: r.id is not null)[1] as resource
  from costed c
  left join inner_runs o on o.workspace_id = c.workspace_id and o.run_id = c.job_run_id
),
tagged as (
  select
    i.*,
    nullif(cast(to_json(map_from_entries(list_filter([
      {'k': 'usage_metadata.job_id', 'v': i.job_id},
      {'k': 'usage_metadata.job_run_id', 'v': i.whole_job_run_id},
      {'k': 'runspend.job_aliases', 'v': n.names},
      {'k': 'usage_metadata.cluster_id', 'v': i.cluster_id},
      {'k': 'usage_metadata.notebook_id', 'v': i.notebook_id},
      {'k': 'usage_metadata.run_name', 'v': i.run_name},
      {'k': 'usage_metadata.endpoint_name', 'v': i.endpoint_name},
      {'k': 'usage_metadata.usage_policy_id', 'v': i.usage_policy_id}
    ], lambda pair: pair.v is not null))) as varchar), '{}') as own_tags_text
  from identified i
  left join other_names n on n.workspace_id = i.workspace_id and n.job_run_id = i.whole_job_run_id
)
select
  row_number,
  rounded_product(quantity, unit_price) as billed_cost,
  rounded_product(quantity, unit_price) as effective_cost,
  rounded_product(quantity, unit_price) as contracted_cost,
  rounded_product(quantity, comparable_list_price) as list_cost,
  currency as billing_currency,
  account_id as billing_account_id,
  workspace_id as sub_account_id,
  'Workspace' as sub_account_type,
  date_trunc('month', on_day) as billing_period_start,
  date_trunc('month', on_day) + interval 1 month as billing_period_end,
  usage_start_time as charge_period_start,
  usage_end_time as charge_period_end,
  'Usage' as charge_category,
  'Usage-Based' as charge_frequency,
  sku_name as charge_description,
  'Databricks' as service_provider_name,
  case cloud_name when 'AWS' then 'Amazon Web Services' when 'AZURE' then 'Microsoft' when 'GCP' then 'Google Cloud' else cloud end as host_provider_name,
  case cloud_name when 'AZURE' then 'Microsoft' else 'Databricks' end as invoice_issuer_name,
  coalesce(billing_origin_product, 'Databricks') as service_name,
  case
    when product in ('MODEL_SERVING', 'VECTOR_SEARCH', 'FOUNDATION_MODEL_TRAINING', 'FINE_TUNING', 'AI_GATEWAY', 'AI_RUNTIME', 'AI_FUNCTIONS', 'BATCH_INFERENCE',
      'AGENT_EVALUATION', 'AGENT_BRICKS', 'ONLINE_TABLES', 'FEATURE_STORE') then 'AI and Machine Learning'
    when product in ('JOBS', 'ALL_PURPOSE', 'INTERACTIVE', 'NOTEBOOKS', 'DLT', 'SQL', 'DATA_SHARING', 'LAKEFLOW_CONNECT', 'CLEAN_ROOM', 'SHARED_SERVERLESS_COMPUTE') then 'Analytics'
    when product in ('DATABASE', 'LAKEBASE') then 'Databases'
    when product = 'DEFAULT_STORAGE' then 'Storage'
    when product = 'NETWORKING' then 'Networking'
    when product in ('LAKEHOUSE_MONITORING', 'DATA_QUALITY_MONITORING', 'DATA_CLASSIFICATION', 'PREDICTIVE_OPTIMIZATION') then 'Management and Governance'
    when product = 'APPS' then 'Web'
    else 'Other'
  end as service_category,
  case
    when product in ('AI_GATEWAY', 'AI_FUNCTIONS', 'BATCH_INFERENCE') or (product = 'MODEL_SERVING' and serving_kind = 'FOUNDATION_MODEL') then 'Generative AI'
    when product in ('MODEL_SERVING', 'FOUNDATION_MODEL_TRAINING', 'FINE_TUNING', 'AI_RUNTIME') then 'Machine Learning'
  end as service_subcategory,
  resource.id as resource_id,
  resource.name as resource_name,
  resource.kind as resource_type,
  source_region as region_id,
  -- The names of serverless SKUs end in the region.
  nullif(regexp_extract(sku_name, '_((?:US|EUROPE|EU|UK|CANADA|AP|ASIA|AUSTRALIA|JAPAN|KOREA|SINGAPORE|INDIA|BRAZIL|SA|SOUTH|SWEDEN|SWITZERLAND|FRANCE|GERMANY|NORWAY|UAE|QATAR|MEXICO)(?:_[A-Z0-9_]+)?)$', 1), '') as region_name,
  sku_name as sku_id,
  usage_type as sku_meter,
  sku_name || '/' || strftime(utc(price_from), '%Y-%m-%dT%H:%M:%SZ') as sku_price_id,
  json_object('x_cost_is_estimate', is_estimate, 'x_price_from', case when is_estimate then 'list_prices' else 'account_prices' end,
    'x_discount', case when is_estimate then getvariable('discount') else '0' end, 'x_record_type', coalesce(record_type, 'ORIGINAL')) as sku_price_details,
  'Standard' as pricing_category,
  quantity as consumed_quantity,
  usage_unit as consumed_unit,
  quantity as pricing_quantity,
  usage_unit as pricing_unit,
  unit_price as contracted_unit_price,
  comparable_list_price as list_unit_price,
  currency as pricing_currency,
  rounded_product(quantity, unit_price) as pricing_currency_effective_cost,
  unit_price as pricing_currency_contracted_unit_price,
  comparable_list_price as pricing_currency_list_unit_price,
  node_type as delivered_instance_type,
  case when own_custom_tags is null or regexp_full_match(own_custom_tags, '\{\s*\}') then own_tags_text
    when own_tags_text is null then own_custom_tags
    -- The two objects are joined as text, so that duplicate tags can still be detected.
    else left(own_custom_tags, length(own_custom_tags) - 1) || ',' || substr(own_tags_text, 2) end as tags,
  case
    when quantity is null then unreadable('usage_quantity', usage_quantity, 'a number of at most 18 decimals')
    when not is_plausible(started_at) then unreadable('usage_start_time', usage_start_time, 'a UTC time such as 2026-10-01T00:00:00Z')
    when not is_plausible(ended_at) then unreadable('usage_end_time', usage_end_time, 'a UTC time such as 2026-10-01T01:00:00Z')
    when unit_price is null then
      'no price: ' || coalesce(sku_name, '(no SKU)') || ' (' || coalesce(cloud_name, 'no cloud') || ', ' || coalesce(usage_unit, 'no unit') || ') at '
      || strftime(utc(ended_at), '%Y-%m-%d %H:%M:%S') || ' UTC is in '
      || case when getvariable('prices_from') = 'list' then 'no list price'
              when getvariable('prices_else') = 'list' then 'neither the account''s prices nor the list prices' else 'no price of the account' end
  end as reject_reason
from tagged
