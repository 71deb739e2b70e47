-- One row per allocation and step, with the weight of the allocation on its machine. An allocation is a container, a pod, or another unit by
-- which OpenCost aggregates.
-- Reads the view `opencost`, whose columns are strings. The weight is the cost of CPU, GPU and memory with OpenCost's adjustments. Disks,
-- network and load balancers are other lines of the bill. `shared` and `external` costs do not belong to a machine.
-- Source: OpenCost, "Allocation API" and "CSV export"; opencost-parquet-exporter.
with readable as (
  select
    *,
    coalesce(name, concat_ws('/', namespace, pod)) as called,
    coalesce(instant(window_start), instant(day)) as step_from,
    coalesce(instant(window_end), instant(day) + interval 1 day) as step_to,
    [cpu_cost, cpu_adjustment, gpu_cost, gpu_adjustment, ram_cost, ram_adjustment] as costs,
    map_from_entries(list_transform(
      coalesce(json_keys(label_columns), []),
      lambda key: {
        'k': regexp_replace(key, '^(properties\.labels\.|properties_labels_|labels?\.|Label_)', ''),
        'v': json_extract_string(label_columns, '$."' || replace(key, '"', '\"') || '"')
      }
    )) as labels_of_columns
  from opencost
),
read as (
  select
    *,
    list_sum(list_transform(costs, lambda cost: coalesce(number(cost), 0)))::decimal(38, 22) as weight,
    len(list_filter(costs, lambda cost: cost is not null and number(cost) is null)) > 0 as is_odd,
    contains(called, '__idle__') as is_idle,
    contains(called, '__unmounted__') as is_unmounted,
    coalesce(instant(run_start), step_from) as started_at,
    coalesce(instant(run_end), step_to) as ended_at
  from readable
)
select
  coalesce(provider_id, node) as resource,
  node as resource_name,
  case
    when is_idle then null
    when pod is not null and namespace is not null then concat('k8s://', cluster, '/', namespace, '/', pod)
    else concat('k8s://', cluster, '/', called)
  end as part_id,
  case when not is_idle then coalesce(pod, called) end as part_name,
  case
    when is_idle then null
    when json_valid(labels) and labels <> '{}' then labels
    when cardinality(labels_of_columns) > 0 then cast(to_json(labels_of_columns) as varchar)
  end as part_tags,
  -- The time of the pod. If it does not end after its start, the time of its step.
  if(ended_at > started_at, started_at, step_from) as from_time,
  if(ended_at > started_at, ended_at, step_to) as to_time,
  weight,
  is_idle,
  cluster,
  step_from,
  step_to,
  case
    when not is_plausible(step_from) or not is_plausible(step_to) or step_to <= step_from or is_odd
      then 'unreadable, row ' || row_number
    when is_unmounted then 'volumes that no pod mounts'
    when weight = 0 then 'weights of no cost'
    when weight < 0 then 'weights below zero'
  end as skip_reason
from read
