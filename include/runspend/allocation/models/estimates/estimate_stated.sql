-- one row per run, machine and time range: the machines that the run states, else those of its nearest ancestor that states any
with nearest as (
  select a.tracking_server, a.run_id, a.ancestor_id
  from run_ancestors a
  join (select distinct tracking_server, run_id from stated_machines) s
    on s.tracking_server = a.tracking_server and s.run_id = a.ancestor_id
  left join (select distinct tracking_server, run_id from stated_machines) own
    on own.tracking_server = a.tracking_server and own.run_id = a.run_id
  where own.run_id is null
  qualify row_number() over (partition by a.tracking_server, a.run_id order by a.distance, a.ancestor_id) = 1
)
select tracking_server, run_id, resource_key, used_from, used_to, is_ambiguous, false as is_inherited
from stated_machines
union all
select n.tracking_server, n.run_id, s.resource_key, s.used_from, s.used_to, s.is_ambiguous, true
from nearest n
join stated_machines s on s.tracking_server = n.tracking_server and s.run_id = n.ancestor_id
