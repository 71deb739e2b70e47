-- Whether each kind of facts could be read, for every workspace with experiments. `reasons` has one element for each of `kinds`: the reason
-- for the failure, or null if the kind was read.
with kinds as (
  select unnest($kinds) as kind, unnest(cast($reasons as varchar[])) as reason
)
select $server as tracking_server, w.workspace, k.kind, case when k.reason is null then 'ok' else 'unknown' end as state, k.reason, $load_id as load_id
from (select distinct workspace from fresh_experiments) w cross join kinds k
order by workspace, kind
