-- one row per bucket, storage class and owner of bytes: the owner's share of the month's bytes x time, as a range between 0 and 1
with stores as (
  select
    store, lower(rtrim(store, '/')) as root,
    -- Same expression as in platform_stores.
    case
      when regexp_contains(store, r'^(abfss?|wasbs?)://') then lower(regexp_extract(store, r'@([^./]+)'))
      else regexp_extract(store, r'^[a-z0-9]+://([^/]+)')
    end as storage_key,
    regexp_contains(store, r'^[a-z0-9]+://[^/]+/+[^/]') as is_folder,
    min(case when bytes is not null then valid_from end) as first_known
  from artifact_bytes
  where month = @period and regexp_contains(store, r'^[a-z0-9]+://[^/]')
  group by store
),
nested as (
  -- An artifact store inside another one is measured twice. The outer one counts.
  select distinct i.store
  from stores i
  join stores o on o.storage_key = i.storage_key and o.root <> i.root and starts_with(i.root, concat(o.root, '/'))
),
stretches as (
  select
    c.target_key, c.window_start, c.window_end, b.owner_kind, b.owner_id, b.tracking_server, b.workspace,
    -- Noncurrent versions are billed too.
    b.bytes + coalesce(b.noncurrent_bytes, 0) as bytes,
    timestamp_diff(
      least(coalesce(b.valid_to, c.billed_until), c.billed_until),
      -- The first measurement of an artifact store also counts for the time before it, as far back as the bill goes.
      greatest(c.window_start, case when b.valid_from = s.first_known then least(b.valid_from, c.billed_from) else b.valid_from end),
      microsecond) as microseconds,
    timestamp_diff(c.billed_until, c.window_start, microsecond) as all_microseconds,
    -- Unknown bytes count as zero, as do bytes outside an artifact store that is a folder of the bucket.
    b.bytes is null or not b.is_complete or s.is_folder as is_in_part
  from artifact_bytes b
  join stores s on s.store = b.store
  left join nested n on n.store = b.store
  join storage_candidates c on c.storage_key = s.storage_key
    and (c.storage_class is null or c.storage_class = b.storage_class or b.storage_class = 'UNKNOWN')
  where b.month = @period and n.store is null
),
keys as (
  select
    target_key, cast(sum(case when bytes > 0 and microseconds > 0 then bytes end) as int64) as bytes, logical_or(is_in_part) as is_in_part
  from stretches
  group by target_key
),
weights as (
  -- Whole numbers that sum to less than 2^52, each from one float product. One byte in a hundred petabytes still counts as one.
  select
    s.target_key, s.window_start, s.window_end, k.is_in_part,
    case s.owner_kind when 'run' then 'run' when 'logged_model' then 'logged_model' when 'orphan' then 'orphan' else 'unallocated' end as allocated_to,
    case when s.owner_kind in ('run', 'logged_model') then s.tracking_server end as tracking_server,
    case when s.owner_kind in ('run', 'logged_model') then s.workspace end as workspace,
    case when s.owner_kind = 'run' then s.owner_id end as run_id,
    case when s.owner_kind = 'logged_model' then s.owner_id end as owner_id,
    -- The run of a trace's artifacts is unknown.
    case s.owner_kind when 'trace' then 'trace' when 'other' then 'not_mlflow' end as reason,
    cast(ceil(s.bytes / k.bytes * (s.microseconds / s.all_microseconds) * 2251799813685248.0) as int64) as weight
  from stretches s
  join keys k on k.target_key = s.target_key
  where s.bytes > 0 and s.microseconds > 0 and k.bytes > 0
),
owners as (
  select
    target_key, window_start, window_end, allocated_to, tracking_server, workspace, run_id, owner_id,
    min(reason) as reason, logical_or(is_in_part) as is_in_part, cast(sum(weight) as int64) as weight
  from weights
  group by target_key, window_start, window_end, allocated_to, tracking_server, workspace, run_id, owner_id
),
running as (
  select
    target_key, window_start, window_end, allocated_to, tracking_server, workspace, run_id, owner_id, reason, is_in_part, weight,
    cast(sum(weight) over (w rows between unbounded preceding and current row) as int64) as upto,
    cast(sum(weight) over (partition by target_key) as int64) as total
  from owners
  window w as (
    partition by target_key
    order by case allocated_to when 'run' then 0 when 'logged_model' then 1 when 'orphan' then 2 else 3 end, tracking_server, workspace, run_id, owner_id)
)
select
  'artifact_bytes' as match_method, target_key, window_start, window_end, allocated_to, tracking_server, workspace, run_id, owner_id,
  coalesce(reason, case when is_in_part then 'incomplete_inventory' end) as reason,
  'bytes' as weight_kind, cast(null as string) as run_end_rule, false as is_scaled, cast(null as int64) as nanoseconds,
  (upto - weight) / total as ratio_from, upto / total as ratio_to, upto = total as is_last
from running
