-- DuckDB. The month's rows after a measurement at $now. A changed row is closed and a new one is opened. All other rows stay unchanged.
-- prior: the month's rows before the measurement. measured: the figures of this listing. $is_complete: whether the listing finished.
-- $read_at: every tracking server has been read at this time or later; null if a server was never read. $servers: the number of servers.
with settled as (
  -- If an earlier measurement has the same $now, undo its changes, so that measuring twice gives the same rows.
  -- An incomplete listing undoes nothing.
  select * replace (if($is_complete and valid_to = $now, null, valid_to) as valid_to)
  from prior
  where not ($is_complete and valid_from = $now)
),
standing as (
  select * from settled where valid_to is null
),
orphans as (
  select owner_id, min(unowned_since) as unowned_since, min(confirmed_at) as confirmed_at
  from standing
  where owner_kind = 'orphan'
  group by owner_id
),
found as (
  -- One read of a tracking server may miss an owner. So an orphan is confirmed only if a read at least a day later does not show its
  -- owner either. If the servers are no longer read, an orphan is confirmed after 30 days.
  select
    m.*,
    if(m.owner_kind = 'orphan', coalesce(o.unowned_since, $now), null) as unowned_since,
    case when m.owner_kind = 'orphan' then coalesce(o.confirmed_at, case
      when $read_at >= o.unowned_since + interval 1 day then $now
      when $now >= o.unowned_since + interval 30 day and ($read_at is not null or $servers = 0) then $now
    end) end as confirmed_at
  from measured m
  left join orphans o on o.owner_id = m.owner_id and m.owner_kind = 'orphan'
),
compared as (
  select
    s.owner_kind is not null as was, m.owner_kind is not null as remains,
    coalesce(s.objects is not distinct from m.objects and s.bytes is not distinct from m.bytes
      and s.oldest_at is not distinct from m.oldest_at and s.newest_at is not distinct from m.newest_at
      and s.noncurrent_objects is not distinct from m.noncurrent_objects and s.noncurrent_bytes is not distinct from m.noncurrent_bytes
      and s.duplicate_bytes is not distinct from m.duplicate_bytes and s.is_complete = m.is_complete, false) as is_same,
    s, m
  from standing s
  full join found m on m.owner_kind = s.owner_kind and m.owner_id = s.owner_id and m.storage_class = s.storage_class
),
month_rows as (
  select
    owner_kind, owner_id, tracking_server, workspace, experiment_id, prefix, storage_class, valid_from, valid_to,
    objects, bytes, oldest_at, newest_at, noncurrent_objects, noncurrent_bytes, duplicate_bytes, unowned_since, confirmed_at,
    is_complete, load_id
  from settled
  where valid_to is not null
  union all
  -- Unchanged rows, in which only the details of the owner are updated. After an incomplete listing, all earlier rows stay.
  select
    s.owner_kind, s.owner_id, if(remains, m.tracking_server, s.tracking_server), if(remains, m.workspace, s.workspace),
    if(remains, m.experiment_id, s.experiment_id), if(remains, m.prefix, s.prefix), s.storage_class, s.valid_from, null,
    s.objects, s.bytes, s.oldest_at, s.newest_at, s.noncurrent_objects, s.noncurrent_bytes, s.duplicate_bytes,
    if(remains, m.unowned_since, s.unowned_since), if(remains, m.confirmed_at, s.confirmed_at), s.is_complete, s.load_id
  from compared
  where was and (is_same or not $is_complete)
  union all
  select
    s.owner_kind, s.owner_id, s.tracking_server, s.workspace, s.experiment_id, s.prefix, s.storage_class, s.valid_from, $now,
    s.objects, s.bytes, s.oldest_at, s.newest_at, s.noncurrent_objects, s.noncurrent_bytes, s.duplicate_bytes, s.unowned_since,
    s.confirmed_at, s.is_complete, s.load_id
  from compared
  where was and not is_same and $is_complete
  union all
  select
    m.owner_kind, m.owner_id, m.tracking_server, m.workspace, m.experiment_id, m.prefix, m.storage_class, $now, null,
    m.objects, m.bytes, m.oldest_at, m.newest_at, m.noncurrent_objects, m.noncurrent_bytes, m.duplicate_bytes, m.unowned_since,
    m.confirmed_at, m.is_complete, $load_id
  from compared
  where remains and not is_same
)
select $month as month, $store as store, month_rows.*
from month_rows
order by owner_kind, owner_id, storage_class, valid_from
