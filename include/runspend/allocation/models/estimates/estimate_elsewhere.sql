-- one row per run that states no machine and did not run on those of its nearest ancestor: it asks for an instance type on the bills,
-- and all of the ancestor's machines have another type. Same rule as in run_spans.
with inherited as (
  select distinct s.tracking_server, s.run_id, s.resource_key, lower(r.instance_type) as instance_type
  from estimate_stated s
  join window_runs r on r.tracking_server = s.tracking_server and r.run_id = s.run_id
  where s.is_inherited and r.instance_type is not null
)
select i.tracking_server, i.run_id
from inherited i
join (select distinct instance_type from estimate_seen) w on w.instance_type = i.instance_type
left join estimate_seen m on m.resource_key = i.resource_key
group by i.tracking_server, i.run_id
having countif(m.instance_type is null or m.instance_type = i.instance_type) = 0
