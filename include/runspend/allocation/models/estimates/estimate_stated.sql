-- one row per run, machine and time range: the machines that the run states, otherwise those of its nearest ancestor that states any.
-- As in run_spans, but with the types of all recent bills and without the jobs and pools that runs state.
with nearest as (
  select a.tracking_server, a.run_id, a.ancestor_id
  from run_ancestors a
  join (select distinct tracking_server, run_id from stated_machines) s
    on s.tracking_server = a.tracking_server and s.run_id = a.ancestor_id
  left join (select distinct tracking_server, run_id from stated_machines) own
    on own.tracking_server = a.tracking_server and own.run_id = a.run_id
  where own.run_id is null
  qualify row_number() over (partition by a.tracking_server, a.run_id order by a.distance, a.ancestor_id) = 1
),
inherited as (
  select n.tracking_server, n.run_id, s.resource_key, s.used_from, s.used_to, s.is_ambiguous, lower(r.instance_type) as instance_type
  from nearest n
  join stated_machines s on s.tracking_server = n.tracking_server and s.run_id = n.ancestor_id
  join window_runs r on r.tracking_server = n.tracking_server and r.run_id = n.run_id
),
elsewhere as (
  select i.tracking_server, i.run_id, i.resource_key
  from inherited i
  join (select distinct instance_type as wanted_type from estimate_seen) w on w.wanted_type = i.instance_type
  join estimate_seen t on t.resource_key = i.resource_key and t.instance_type is not null
  group by i.tracking_server, i.run_id, i.resource_key
  having countif(t.instance_type = i.instance_type) = 0
)
select tracking_server, run_id, resource_key, used_from, used_to, is_ambiguous, false as is_inherited
from stated_machines
union all
select i.tracking_server, i.run_id, i.resource_key, i.used_from, i.used_to, i.is_ambiguous, true
from inherited i
left join elsewhere e on e.tracking_server = i.tracking_server and e.run_id = i.run_id and e.resource_key = i.resource_key
where e.run_id is null
