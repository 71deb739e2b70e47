-- The utilization metrics to average, one row per run and metric, from `use_keys` of the runs whose mean is not in `fresh_use`.
-- These are the metrics of GPUs, or those of the CPU if a run has no GPU metrics.
-- `stride` is chosen so that about $points points at most are read, evenly spread.
with logged as (
  select run_id, unnest(string_split(use_keys, chr(31))) as entry
  from fresh_runs r
  where use_keys <> '' and not exists (select 1 from fresh_use u where u.run_id = r.run_id)
),
parsed as (
  select run_id, split_part(entry, chr(30), 1) as key, try_cast(split_part(entry, chr(30), 2) as bigint) as last_step from logged
),
kinds as (
  select
    run_id,
    key,
    last_step,
    case when regexp_full_match(key, '(?s)system/(.+/)?gpu_[0-9]+_utilization_percentage') then 1
         when regexp_full_match(key, '(?s)system/(.+/)?cpu_utilization_percentage') then 2 end as kind
  from parsed
  where last_step >= 0
)
select run_id, key, last_step, last_step // $points + 1 as stride
from kinds
where kind is not null
qualify kind = min(kind) over (partition by run_id)
order by run_id, key
