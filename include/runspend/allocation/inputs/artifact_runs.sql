-- Start months of runs with artifacts in the stores in each month: they pay for storage no matter how long ago they ran.
select distinct a.month, r.start_month, r.tracking_server
from (select distinct month, tracking_server, owner_id from artifact_bytes where owner_kind = 'run') a
join runs r on r.tracking_server = a.tracking_server and r.run_id = a.owner_id
