-- one row per bucket, storage class and owner of bytes: the owner's share of the month's bytes x time, as a range between 0 and 1.
-- If the whole bucket was measured, it is the share of the measured bytes. If only a part was measured, it is the share of the billed bytes,
-- and the rest is unallocated.
with stores as (
  select
    store, case when regexp_contains(store, r'^(abfss?|wasbs?)://') then lower(rtrim(store, '/')) else rtrim(store, '/') end as root,
    -- The same expression as in platform_stores.
    case
      when regexp_contains(store, r'^(abfss?|wasbs?)://') then lower(regexp_extract(store, r'@([^./]+)'))
      else regexp_extract(store, r'^[a-z0-9]+://([^/]+)')
    end as storage_key,
    -- A folder, or a container of an Azure storage account, is only a part of the billed bucket or account.
    regexp_contains(store, r'^(abfss?|wasbs?)://|^[a-z0-9]+://[^/]+/+[^/]') as is_part,
    min(case when bytes is not null then valid_from end) as first_known
  from artifact_bytes
  where month = @period and regexp_contains(store, r'^[a-z0-9]+://[^/]')
  group by store
),
nested as (
  -- An artifact store inside another one is measured twice. Only the outer one counts.
  select distinct i.store
  from stores i
  join stores o on o.storage_key = i.storage_key and o.root <> i.root and starts_with(i.root, concat(o.root, '/'))
),
parts as (
  select storage_key
  from stores
  group by storage_key
  having logical_and(is_part)
),
stretches as (
  select
    c.target_key, c.window_start, c.window_end, p.storage_key is not null as is_part, c.gib_months, b.owner_kind, b.owner_id, b.tracking_server, b.workspace,
    -- Noncurrent versions are billed as well.
    b.bytes + coalesce(b.noncurrent_bytes, 0) as bytes,
    timestamp_diff(
      least(coalesce(b.valid_to, c.billed_until), c.billed_until),
      -- The first measurement of an artifact store also counts for the time before it, as far back as the bill goes.
      greatest(c.window_start, case when b.valid_from = s.first_known then least(b.valid_from, c.billed_from) else b.valid_from end),
      microsecond) as microseconds,
    timestamp_diff(c.billed_until, c.window_start, microsecond) as all_microseconds,
    timestamp_diff(c.window_end, c.window_start, microsecond) as month_microseconds,
    -- In a part of a bucket, bytes of unknown class are divided among the classes in proportion to the billed bytes of the bucket.
    case
      when p.storage_key is not null and c.storage_class is not null and b.storage_class = 'UNKNOWN' and c.bucket_gib_months > 0
        then c.gib_months / c.bucket_gib_months
      else 1.0
    end as class_part,
    -- Unknown bytes count as zero.
    b.bytes is null or not b.is_complete as is_incomplete
  from artifact_bytes b
  join stores s on s.store = b.store
  left join nested n on n.store = b.store
  left join parts p on p.storage_key = s.storage_key
  join storage_candidates c on c.storage_key = s.storage_key
    and (c.storage_class is null or c.storage_class = b.storage_class or b.storage_class = 'UNKNOWN')
  where b.month = @period and n.store is null
),
keys as (
  select
    target_key, window_start, window_end, is_part, gib_months,
    cast(sum(case when bytes > 0 and microseconds > 0 then bytes end) as int64) as bytes,
    max(all_microseconds) / max(month_microseconds) as billed_part,
    -- KiB x hours, both rounded up.
    cast(sum(case when bytes > 0 and microseconds > 0 then div(bytes + 1023, 1024) * div(microseconds + 3599999999, 3600000000) end) as int64)
      / (max(month_microseconds) / 3600000000) / 1048576.0 as measured_gib_months,
    logical_or(is_incomplete) as is_incomplete
  from stretches
  group by target_key, window_start, window_end, is_part, gib_months
),
scales as (
  -- `billed`: the billed bytes x time, as a multiple of all measured bytes over the whole billed time.
  select
    target_key, window_start, window_end, bytes,
    -- If far more is billed than was measured, the listing may have only some of the bucket's prefixes.
    is_incomplete or coalesce(not is_part and gib_months > 2.0 * measured_gib_months, false) as is_incomplete,
    case when not is_part then 0.0 when gib_months > 0 then gib_months / (bytes / 1073741824.0 * billed_part) end as billed
  from keys
  where bytes > 0
),
weights as (
  -- Whole numbers whose sum is below 2^52, each from one float product. One byte in a hundred petabytes still counts as one.
  select
    s.target_key, s.window_start, s.window_end, k.is_incomplete,
    case s.owner_kind when 'run' then 'run' when 'logged_model' then 'logged_model' when 'orphan' then 'orphan' else 'unallocated' end as allocated_to,
    case when s.owner_kind in ('run', 'logged_model') then s.tracking_server end as tracking_server,
    case when s.owner_kind in ('run', 'logged_model') then s.workspace end as workspace,
    case when s.owner_kind = 'run' then s.owner_id end as run_id,
    case when s.owner_kind = 'logged_model' then s.owner_id end as owner_id,
    -- The run to which a trace's artifacts belong is unknown.
    case s.owner_kind when 'trace' then 'trace' when 'other' then 'not_mlflow' end as reason,
    cast(ceil(s.bytes / k.bytes * (s.microseconds / s.all_microseconds) * 2251799813685248.0 * s.class_part / greatest(1.0, k.billed)) as int64) as weight
  from stretches s
  join scales k on k.target_key = s.target_key
  -- If the bill does not show how much the whole bucket has, the share of a part is unknown.
  where s.bytes > 0 and s.microseconds > 0 and k.billed is not null
),
rests as (
  -- The bytes of a bucket outside its artifact stores. A remainder of a billionth is only rounding.
  select target_key, window_start, window_end, is_incomplete, whole - measured as weight
  from (
    select
      k.target_key, k.window_start, k.window_end, k.is_incomplete,
      cast(ceil(k.billed / greatest(1.0, k.billed) * 2251799813685248.0) as int64) as whole, cast(sum(w.weight) as int64) as measured
    from scales k
    join weights w on w.target_key = k.target_key
    group by k.target_key, k.window_start, k.window_end, k.is_incomplete, k.billed
  )
  where whole - measured > div(whole, 1000000000)
),
owners as (
  select
    target_key, window_start, window_end, allocated_to, tracking_server, workspace, run_id, owner_id,
    case
      when sum(case when reason = 'not_measured' then weight else 0 end) * 2 > sum(weight) then 'not_measured'
      else coalesce(min(case when reason <> 'not_measured' then reason end), min(reason))
    end as reason,
    logical_or(is_incomplete) as is_incomplete, cast(sum(weight) as int64) as weight
  from (
    select target_key, window_start, window_end, allocated_to, tracking_server, workspace, run_id, owner_id, reason, is_incomplete, weight
    from weights
    union all
    select
      target_key, window_start, window_end, 'unallocated', cast(null as string), cast(null as string), cast(null as string), cast(null as string),
      'not_measured', is_incomplete, weight
    from rests
  )
  group by target_key, window_start, window_end, allocated_to, tracking_server, workspace, run_id, owner_id
),
running as (
  select
    target_key, window_start, window_end, allocated_to, tracking_server, workspace, run_id, owner_id, reason, is_incomplete, weight,
    cast(sum(weight) over (w rows between unbounded preceding and current row) as int64) as upto,
    cast(sum(weight) over (partition by target_key) as int64) as total
  from owners
  window w as (
    partition by target_key
    order by case allocated_to when 'run' then 0 when 'logged_model' then 1 when 'orphan' then 2 else 3 end, tracking_server, workspace, run_id, owner_id)
)
select
  'artifact_bytes' as match_method, target_key, window_start, window_end, allocated_to, tracking_server, workspace, run_id, owner_id,
  coalesce(reason, case when is_incomplete then 'incomplete_inventory' end) as reason,
  'bytes' as weight_kind, cast(null as string) as run_end_rule, false as is_scaled, cast(null as int64) as nanoseconds,
  (upto - weight) / total as ratio_from, upto / total as ratio_to, upto = total as is_last
from running
