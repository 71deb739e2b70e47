-- One row per machine that these runs state.
select run_id, resource_id, resource_key, used_from, used_to
from run_resources
where run_id in unnest(@runs) and tracking_server = @server
order by run_id, resource_id, used_ordinal
