-- Start months of the runs that have artifacts in the stores, by month. Such runs share storage cost, even if they ran long ago.
select distinct a.month, r.start_month, r.tracking_server
from (select distinct month, tracking_server, owner_id from artifact_bytes where owner_kind = 'run') a
join runs r on r.tracking_server = a.tracking_server and r.run_id = a.owner_id
