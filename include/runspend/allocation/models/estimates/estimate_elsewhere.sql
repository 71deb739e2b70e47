-- one row per run that states no machine and did not run on those of its nearest ancestor: it asks for an instance type on the bills,
-- and all of the ancestor's machines have another type. Same rule as in run_spans.
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
  select distinct n.tracking_server, n.run_id, s.resource_key, lower(r.instance_type) as instance_type
  from nearest n
  join stated_machines s on s.tracking_server = n.tracking_server and s.run_id = n.ancestor_id
  join window_runs r on r.tracking_server = n.tracking_server and r.run_id = n.run_id
  where r.instance_type is not null
)
select i.tracking_server, i.run_id
from inherited i
join (select distinct instance_type from estimate_seen) w on w.instance_type = i.instance_type
left join estimate_seen m on m.resource_key = i.resource_key
group by i.tracking_server, i.run_id
having countif(m.instance_type is null or m.instance_type = i.instance_type) = 0
