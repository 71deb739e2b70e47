-- Machines stated by those runs of other months that jobs of the period reach.
select s.tracking_server, s.run_id, s.resource_key, s.used_from, s.used_to
from run_resources s
join (select r.tracking_server, r.run_id {runs_in_reach}) r on r.tracking_server = s.tracking_server and r.run_id = s.run_id
order by s.tracking_server, s.run_id, s.resource_key, s.used_from, s.used_to
