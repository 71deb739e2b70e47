-- One row per run, from the stream `raw_runs` and `fresh_experiments`. The lists `t` and `p` contain the run's wanted tags and params.
-- `resolve_keys` replaces `stated('key')` and `tag_value('key')` by an element of these lists. MLflow writes user_id 'unknown' if it does
-- not know the user. `dimension_sources.py` provides the SQL of the dimensions ({team} and so on), the job and the pool.
-- `run_resources.sql` reads `resource_kind` and `resource_text`, `use_keys.sql` reads `use_keys`, and `gap_metrics.sql` reads `step_keys`.
insert into fresh_runs by name
-- Text that looks like a secret is replaced first. `stated_tags` and `stated_params` keep the original text, from which `all_but_secrets`
-- selects the pairs to copy.
with looked_at as (
  select
    r.* replace ({tags_of_people} as tags),
    is_suspect(concat_ws(chr(10), run_name, user_id, artifact_uri, tags, params)) as is_suspected
  from raw_runs r
),
-- All strings of a suspected run are in one list, because DuckDB plans the many patterns of `redacted` again for each use of it.
texts as (
  select
    l.*,
    case when is_suspected then place_parts(artifact_uri) end as place,
    case when is_suspected then values_of(tags) end as tag_values,
    case when is_suspected then values_of(params) end as param_values
  from looked_at l
),
redacted_texts as (
  select
    x.*,
    case
      when is_suspected then list_transform(
        list_concat([run_name, user_id, place.rest], tag_values, param_values), lambda text: redacted(text)
      )
    end as clean
  from texts x
),
cleaned as (
  select
    x.* exclude (place, tag_values, param_values, clean) replace (
      case when is_suspected then clean[1] else run_name end as run_name,
      case when is_suspected then clean[2] else user_id end as user_id,
      case when is_suspected then place.kept || clean[3] else artifact_uri end as artifact_uri,
      case when is_suspected then with_values(tags, clean[4:3 + len(tag_values)]) else tags end as tags,
      case when is_suspected then with_values(params, clean[4 + len(tag_values):]) else params end as params
    ),
    tags as stated_tags,
    params as stated_params
  from redacted_texts x
),
found as (
  select
    c.*,
    json_extract_string(c.tags, getvariable('tag_paths')) as t,
    json_extract_string(c.params, getvariable('param_paths')) as p
  from cleaned c
),
people as (
  select f.*, coalesce(trimmed(tag_value('mlflow.user')), nullif(trimmed(user_id), 'unknown')) as person from found f
),
user_periods as (
  select person, list({'file': file, 'value': value, 'valid_from': valid_from, 'valid_to': valid_to} order by number) as periods from user_lines group by person
),
named as (
  select
    n.*,
    coalesce(e.workspace, 'default') as workspace_name,
    e.experiment_name,
    case when not list_contains(getvariable('not_a_person'), n.person) then n.person end as user_name,
    e.dimension_values,
    u.periods
  from people n
  left join fresh_experiments e on e.experiment_id = n.experiment_id
  left join user_periods u on u.person = n.person
  where e.experiment_id is not null or not getvariable('only_listed_workspaces')
),
-- What the run states about its machines, with one column per key, so that every text is parsed once. No column refers to another one,
-- because DuckDB would plan the other column's expression again for each use of it.
says as (
  select
    n.*,
    stated('runspend.resources') as listed,
    stated('runspend.resource_ids') as ids,
    coalesce(
      stated('runspend.instance_id'), stated('instance_id'), stated('resource_id'),
      stated('cloud.instance_id'), stated('mlflow.databricks.cluster.id'),
      -- Serverless compute has no cluster. Its bill lines name the notebook.
      stated('mlflow.databricks.notebookID')
    ) as one_id,
    -- Runspend's plug-in writes this tag. It counts only if the run states no other machine.
    stated('runspend.machine.id') as first_machine,
    further_machines(tags) as further_machines,
    coalesce(stated('instance_type'), stated('runspend.machine.type')) as stated_instance_type,
    stated('num_workers') as stated_workers,
    stated('num_nodes') as stated_nodes,
    coalesce(
      stated('mlflow.databricks.cluster.id'), stated('mlflow.databricks.notebookID'), stated('mlflow.databricks.jobRunID')
    ) is not null as is_on_databricks,
    coalesce(stated('gpu_type'), stated('runspend.machine.gpu_type')) as stated_gpu_type,
    slice_of_gpu(stated('gpu_type')) as stated_slice,
    stated('gpu_count') as stated_gpu_count,
    stated('runspend.machine.gpu_count') as seen_gpu_count,
    coalesce(stated('gpu_memory_gb'), stated('gpu_memory')) as stated_gpu_memory,
    coalesce(stated('cpu_request'), stated('cpu_limit'), stated('cpu_cores'), stated('runspend.machine.cores')) as stated_cpu,
    coalesce(stated('memory_request'), stated('memory_limit'), stated('runspend.machine.memory')) as stated_memory,
    stated('max_retries') as stated_retries,
    stated('timeout_seconds') as stated_timeout,
    stated('early_stopping_rounds') as stated_rounds,
    coalesce(stated('runspend.iam_principal'), stated('iam_principal')) as stated_principal,
    {stated_account} as stated_account,
    {stated_region} as stated_region,
    {stated_zone} as stated_zone,
    {stated_option} as stated_option,
    {stated_job} as stated_job,
    {pool_number} as pool_number
  from named n
),
-- Lists of machines that cannot be parsed count as not stated.
judged as (
  select
    s.*,
    {job_form} as job_form,
    coalesce(case when json_valid(listed) then json_type(listed) = 'ARRAY' end, false) as is_listed,
    ids is not null and (not starts_with(ids, '[') or coalesce(case when json_valid(ids) then json_type(ids) = 'ARRAY' end, false)) as is_ids,
    one_id is null and list_count(further_machines) > 0 as is_several
  from says s
),
typed as (
  select
    $server as tracking_server,
    workspace_name as workspace,
    run_id,
    cast(date_trunc('month', coalesce(instant_utc(start_ms), timestamp '1970-01-01')) as date) as start_month,
    coalesce(nullif(run_name, ''), nullif(tag_value('mlflow.runName'), '')) as run_name,
    nullif(experiment_id, '') as experiment_id,
    experiment_name,
    user_name,
    nullif(status, '') as run_status,
    nullif(lifecycle_stage, '') as lifecycle_stage,
    instant(start_ms) as start_time,
    -- An end time in the future is rejected. The run then ends $alive_ms after its last sign of activity, but not after the stated end.
    instant(case when end_ms > $believed_ms then least(end_ms, greatest(start_ms, last_metric_ms) + $alive_ms) else end_ms end) as end_time,
    case when end_ms > $believed_ms then instant(end_ms) end as future_end_time,
    case when end_ms is null or not is_instant(end_ms) then instant(last_metric_ms) end as last_sign_at,
    nullif(artifact_uri, '') as artifact_uri,
    trimmed(tag_value('mlflow.parentRunId')) as parent_run_id,
    nullif(tag_value('mlflow.source.name'), '') as source_name,
    trimmed(tag_value('mlflow.source.git.commit')) as git_commit,
    {team} as team,
    {project} as project,
    {cost_center} as cost_center,
    {owner} as owner,
    {team_from} as team_from,
    {project_from} as project_from,
    {cost_center_from} as cost_center_from,
    {owner_from} as owner_from,
    stated_instance_type as instance_type,
    -- On Databricks, `num_workers` does not count the driver, so one machine is added. Elsewhere, it is used as it is stated, although
    -- PyTorch's data loaders have a parameter of the same name.
    coalesce(whole_number(stated_nodes), whole_number(stated_workers) + if(is_on_databricks, 1, 0)) as num_nodes,
    stated_gpu_type as gpu_type,
    exact_gpus(coalesce(
      slices_as_gpus(none_or_more(try_cast(stated_gpu_count as double)), stated_slice), none_or_more(try_cast(seen_gpu_count as double)), stated_slice
    )) as gpu_count,
    gibibytes(stated_gpu_memory) as gpu_memory_gb,
    cores(stated_cpu) as cpu_request,
    gibibytes(stated_memory) as memory_request_gb,
    whole_number(stated_retries) as max_retries,
    positive(try_cast(stated_timeout as double)) as timeout_seconds,
    whole_number(stated_rounds) as early_stopping_rounds,
    stated_account as sub_account_id,
    coalesce(stated_region, region_of_zone(stated_zone)) as region_id,
    stated_zone as availability_zone,
    stated_option as purchase_option,
    stated_job as job_id,
    {stated_job_key} as job_key,
    stated_principal as iam_principal,
    {principal_key} as principal_key,
    -- The digest is made from `param_list`, not from JSON: params come in the order in which they were logged, and joined text is cheaper
    -- to build and sort. `nullif` is used because with `case` every list would be built and sorted twice.
    md5(array_to_string(list_sort(string_split(nullif(param_list, ''), chr(31))), chr(31))) as params_digest,
    {copied_tags} as tags,
    {copied_params} as params,
    $load_id as load_id,
    case
      when is_listed then 'list' when is_ids then 'ids' when is_several then 'list' when coalesce(one_id, first_machine) is not null then 'one'
    end as resource_kind,
    case
      when is_listed then listed when is_ids then ids
      when is_several then cast(to_json(list_concat(case when first_machine is null then [] else [first_machine] end, further_machines)) as varchar)
      else coalesce(one_id, first_machine)
    end as resource_text,
    (listed is not null and not is_listed) or (ids is not null and not is_ids) as has_bad_resources,
    coalesce((start_ms <> 0 and not is_instant(start_ms)) or (end_ms <> 0 and not is_instant(end_ms)), false) as has_bad_time,
    use_keys,
    step_keys,
    pool_number
  from judged
)
select * exclude (pool_number), {pool_key} as pool_key from typed;
