-- The number of runs by start month and tracking server.
select start_month as period, tracking_server, count(*) as runs
from runs
group by start_month, tracking_server
order by period desc, tracking_server
limit 100
