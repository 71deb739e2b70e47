-- Bytes at the end of the month: by experiment, and by store for orphaned and other bytes.
with held as (
  select
    case when owner_kind in ('orphan', 'other') then owner_kind else 'experiment' end as owner,
    case when owner_kind in ('orphan', 'other') then store end as store,
    tracking_server, workspace,
    case when owner_kind in ('orphan', 'other') then null else experiment_id end as experiment_id,
    bytes, objects, oldest_at, newest_at
  from artifact_bytes
  where month = @first and (valid_to is null or date(valid_to) >= @next)
)
select
  h.owner, h.store, h.tracking_server, h.workspace, h.experiment_id, max(e.experiment_name) as experiment_name,
  sum(h.bytes) as bytes, sum(h.objects) as objects, min(h.oldest_at) as oldest_at, max(h.newest_at) as newest_at,
  sum(case when h.bytes is null then 1 else 0 end) as unknown_owners
from held h
left join experiments e on e.tracking_server = h.tracking_server and e.workspace = h.workspace and e.experiment_id = h.experiment_id
group by h.owner, h.store, h.tracking_server, h.workspace, h.experiment_id
order by bytes desc, owner, store, tracking_server, workspace, experiment_id
limit 500
