-- DuckDB. The month's rows after a measurement at $now: what changed is closed and opened anew, the rest keeps its row.
-- prior: the month's rows before it. measured: figures of this listing. $is_complete: whether that finished.
with settled as (
  -- the same $now again: undo what it wrote, so that measuring twice changes nothing. A listing that broke off undoes nothing.
  select * replace (if($is_complete and valid_to = $now, null, valid_to) as valid_to)
  from prior
  where not ($is_complete and valid_from = $now)
),
standing as (
  select * from settled where valid_to is null
),
compared as (
  select
    s.owner_kind is not null as was, m.owner_kind is not null as remains,
    coalesce(s.objects is not distinct from m.objects and s.bytes is not distinct from m.bytes
      and s.oldest_at is not distinct from m.oldest_at and s.newest_at is not distinct from m.newest_at
      and s.is_complete = m.is_complete, false) as is_same,
    s, m
  from standing s
  full join measured m on m.owner_kind = s.owner_kind and m.owner_id = s.owner_id and m.storage_class = s.storage_class
),
month_rows as (
  select
    owner_kind, owner_id, tracking_server, workspace, experiment_id, prefix, storage_class, valid_from, valid_to,
    objects, bytes, oldest_at, newest_at, is_complete, load_id
  from settled
  where valid_to is not null
  union all
  -- unchanged: same row, though its owner may have got another name; also what a broken listing says nothing about
  select
    s.owner_kind, s.owner_id, if(remains, m.tracking_server, s.tracking_server), if(remains, m.workspace, s.workspace),
    if(remains, m.experiment_id, s.experiment_id), if(remains, m.prefix, s.prefix), s.storage_class, s.valid_from, null,
    s.objects, s.bytes, s.oldest_at, s.newest_at, s.is_complete, s.load_id
  from compared
  where was and (is_same or not $is_complete)
  union all
  select
    s.owner_kind, s.owner_id, s.tracking_server, s.workspace, s.experiment_id, s.prefix, s.storage_class, s.valid_from, $now,
    s.objects, s.bytes, s.oldest_at, s.newest_at, s.is_complete, s.load_id
  from compared
  where was and not is_same and $is_complete
  union all
  select
    m.owner_kind, m.owner_id, m.tracking_server, m.workspace, m.experiment_id, m.prefix, m.storage_class, $now, null,
    m.objects, m.bytes, m.oldest_at, m.newest_at, m.is_complete, $load_id
  from compared
  where remains and not is_same
)
select $month as month, $store as store, month_rows.*
from month_rows
order by owner_kind, owner_id, storage_class, valid_from
