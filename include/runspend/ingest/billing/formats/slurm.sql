-- One row per job allocation and UTC day. A file is charged for the time from `file_start` to `file_end`, or for all time if these are null.
-- Two kinds of rows are skipped and counted: steps, because the row of their job has the same resources, and jobs that never started.
-- Costs are integers in ten-billionths until the last step. Counts are below 10^7, prices below 10^14, and seconds are at most 10^8, so no
-- product exceeds 1.7 * 10^38.
with stated as (
  select
    *,
    list_transform([started, ended], lambda t: case
      when t in ('Unknown', 'None', 'INVALID') then null
      -- The setting SLURM_TIME_FORMAT of a cluster may add the offset.
      when regexp_matches(t, '(Z|[+-][0-9]{2}:?[0-9]{2})$') then instant(t)
      when is_time(t) then timezone(getvariable('timezone'), try_cast(t as timestamp))
    end) as times,
    -- In autumn, one hour of the local time comes twice. For times in that hour, this is the earlier of the two possible times.
    list_transform([started, ended], lambda t: case
      when is_time(t) and not regexp_matches(t, '(Z|[+-][0-9]{2}:?[0-9]{2})$')
        and timezone(getvariable('timezone'), timezone(getvariable('timezone'), try_cast(t as timestamp)) - interval 1 hour) = try_cast(t as timestamp)
        then timezone(getvariable('timezone'), try_cast(t as timestamp)) - interval 1 hour
    end) as first_times,
    case when regexp_full_match(trim(elapsed), '[0-9]{1,9}') then cast(elapsed as bigint) end as elapsed_seconds,
    coalesce(nullif(regexp_extract(tres, '(?:^|,)cpu=([0-9]+)', 1), ''), cores) as cpu_text,
    coalesce(nullif(regexp_extract(tres, '(?:^|,)node=([0-9]+)', 1), ''), nodes) as node_text,
    nullif(regexp_extract(tres, '(?:^|,)billing=([0-9]+)', 1), '') as billing_text,
    nullif(regexp_extract(tres, '(?:^|,)gres/gpu=([0-9]+)', 1), '') as gpu_text,
    regexp_extract_all(lower(tres), '(?:^|,)gres/gpu:([^=,]+)=[0-9]+', 1) as gpu_types,
    regexp_extract_all(lower(tres), '(?:^|,)gres/gpu:[^=,]+=([0-9]+)', 1) as gpu_type_texts,
    regexp_extract(tres, '(?:^|,)mem=([0-9.]+)[KMGTP]?', 1) as memory_text,
    regexp_extract(tres, '(?:^|,)mem=[0-9.]+([KMGTP]?)', 1) as memory_unit
  from sacct
),
placed as (
  -- A start is the earlier of the two times if the job ends too soon after the later one for the duration that it states.
  select
    * exclude (times, first_times),
    [case when first_times[1] is not null and times[2] < times[1] + to_seconds(elapsed_seconds) then first_times[1] else times[1] end, times[2]] as times,
    first_times[2] as first_end
  from stated
),
counted as (
  select
    * exclude (times, first_end),
    case when is_plausible(times[1]) then times[1] end as job_start,
    case when is_plausible(times[1]) then greatest(
      case when first_end >= times[1] + to_seconds(elapsed_seconds) then first_end else coalesce(times[2], times[1]) end,
      times[1] + to_seconds(elapsed_seconds)) end as job_end,
    -- A value that cannot be read becomes too large, which is reported below.
    least(coalesce(try_cast(coalesce(cpu_text, '0') as bigint), 10000000), 10000000) as cpus,
    least(coalesce(try_cast(coalesce(node_text, '0') as bigint), 10000000), 10000000) as node_count,
    least(coalesce(try_cast(coalesce(billing_text, '0') as bigint), 10000000), 10000000) as billing_units,
    -- The untyped count and the sum of the typed counts describe the same GPUs, so the larger one counts.
    least(greatest(
      coalesce(try_cast(coalesce(gpu_text, '0') as bigint), 10000000),
      coalesce(list_sum(list_transform(gpu_type_texts, lambda n: coalesce(try_cast(n as integer), 10000000))), 0)
    ), 10000000) as gpus,
    list_zip(gpu_types, list_transform(gpu_type_texts, lambda n: least(try_cast(n as integer), 10000000))) as typed_gpus,
    -- Memory in hundredths of a KiB, so that a number with two decimals in any unit is an integer.
    least(coalesce(
      cast(try_cast(coalesce(nullif(memory_text, ''), '0') as decimal(15, 2)) * 100 as hugeint)
      * case memory_unit when 'K' then 1 when 'G' then 1048576 when 'T' then 1073741824 when 'P' then 1099511627776 else 1024 end,
      1000000000000000
    ), 1000000000000000) as memory
  from placed
),
judged as (
  select
    *,
    case
      when contains(job_raw, '.') then 'steps, which are part of their job'
      when elapsed_seconds = 0 then 'jobs that have not run'
    end as is_nothing,
    case
      when elapsed_seconds is null then unreadable('ElapsedRaw', elapsed, 'a number of seconds, at most 100000000')
      when job_start is null then unreadable('Start', started, 'a time such as 2026-10-01T08:00:00')
      when date_diff('second', job_start, job_end) > 100000000 then unreadable('End', ended, 'within three years of Start')
      when coalesce(cpu_text, node_text, billing_text, gpu_text, nullif(memory_text, ''), gpu_types[1]) is null
        or greatest(cpus, node_count, billing_units, gpus) >= 10000000 or memory >= 1000000000000000
        then unreadable('AllocTRES', tres, 'a list such as cpu=8,mem=64G,node=1,gres/gpu=2')
    end as is_wrong,
    greatest(job_start, coalesce(getvariable('file_start'), job_start)) as charged_from,
    least(job_end, coalesce(getvariable('file_end'), job_end)) as charged_until
  from counted
),
cards as (
  select unnest(from_json(getvariable('cards'), '[{"partition": "VARCHAR", "gpu": "HUGEINT", "cpu": "HUGEINT", "mem_gb": "HUGEINT", "node": "HUGEINT", "billing": "HUGEINT", "gpu_types": "MAP(VARCHAR, HUGEINT)"}]')) as card
),
hourly as (
  -- The hourly price of the job, times the 104857600 hundredths of a KiB in a GiB. The division by this and by 3600 seconds follows below.
  select
    j.*,
    104857600 * (
      cast(j.cpus as hugeint) * c.card.cpu + cast(j.node_count as hugeint) * c.card.node + cast(j.billing_units as hugeint) * c.card.billing
      + cast(j.gpus as hugeint) * c.card.gpu
      -- A GPU type with its own price uses that price instead of the general one.
      + coalesce(list_sum(list_transform(
        list_filter(j.typed_gpus, lambda g: map_contains(c.card.gpu_types, g[1])), lambda g: cast(g[2] as hugeint) * (c.card.gpu_types[g[1]] - c.card.gpu)
      )), 0)
    ) + j.memory * c.card.mem_gb as weighed_price,
    coalesce(is_nothing, case when is_wrong is null and charged_from >= charged_until then 'jobs of another time than their file' end) as skip_reason,
    case when is_nothing is null then is_wrong end as reject_reason
  from judged j
  left join cards own on own.card.partition = j.partition_name
  join cards c on c.card.partition is not distinct from own.card.partition
),
costed as (
  select
    *,
    skip_reason is null and reject_reason is null as is_charged,
    nullif(date_diff('second', job_start, job_end), 0) as job_seconds,
    (elapsed_seconds * weighed_price + 188743680000) // 377487360000 as job_units,
    -- All parts of a heterogeneous job get the id of its leader, because the environment of the job names that one.
    coalesce(nullif(regexp_extract(job, '^([0-9]+)[+]', 1), ''), job_raw) as job_id,
    regexp_extract(job, '^([0-9]+)_[0-9]+$', 1) as array_job_id
  from hourly
),
days as (
  select
    *,
    unnest(case
      when is_charged then generate_series(date_trunc('day', charged_from), charged_until - interval 1 microsecond, interval 1 day)
      -- The time of a row that is not charged. A skipped row needs a time so that it is counted. A row with an error gets its start.
      else [case when skip_reason is not null then timestamptz '2000-01-01 00:00:00+00' else job_start end]
    end) as day_start
  from costed
),
pieces as (
  select
    *,
    case when is_charged then greatest(day_start, charged_from) else day_start end as piece_start,
    case when is_charged then least(day_start + interval 1 day, charged_until) else day_start end as piece_end
  from days
),
shares as (
  -- The cost of the job by the end of the piece minus its cost by the start of the piece. So all pieces add up to the job.
  select
    *,
    job_units * date_diff('second', job_start, piece_end) // job_seconds - job_units * date_diff('second', job_start, piece_start) // job_seconds as units,
    elapsed_seconds * date_diff('second', job_start, piece_end) // job_seconds
      - elapsed_seconds * date_diff('second', job_start, piece_start) // job_seconds as seconds,
    coalesce(getvariable('file_month'), month_of(piece_start)) as period
  from pieces
),
named as (
  select *, cast(coalesce(units, 0) as decimal(28, 0)) * cast(0.0000000001 as decimal(10, 10)) as cost
  from shares
)
select
  row_number,
  cost as billed_cost,
  cost as effective_cost,
  cost as list_cost,
  cost as contracted_cost,
  getvariable('currency') as billing_currency,
  coalesce(cluster, getvariable('bill')) as billing_account_id,
  account as sub_account_id,
  cast(period as timestamptz) as billing_period_start,
  cast(period + interval 1 month as timestamptz) as billing_period_end,
  piece_start as charge_period_start,
  piece_end as charge_period_end,
  'Usage' as charge_category,
  'Usage-Based' as charge_frequency,
  'Standard' as pricing_category,
  state as charge_description,
  'SLURM' as service_provider_name,
  'SLURM' as host_provider_name,
  'SLURM' as invoice_issuer_name,
  'SLURM jobs' as service_name,
  'Compute' as service_category,
  job_raw as resource_id,
  job_name as resource_name,
  'Job' as resource_type,
  cast(coalesce(seconds, 0) as decimal(18, 0)) as consumed_quantity,
  'Seconds' as consumed_unit,
  cast(json_object('GpuCount', gpus, 'CoreCount', cpus, 'MemorySize', round(cast(memory as double) / 104857600, 3)) as varchar) as sku_price_details,
  cast(json_merge_patch('{}', json_object(
    'slurm_job_id', job_id, 'slurm_array_job_id', nullif(array_job_id, ''), 'user', user_name, 'partition', partition_name, 'cluster', cluster, 'job_name', job_name
  )) as varchar) as tags,
  reject_reason,
  skip_reason
from named
