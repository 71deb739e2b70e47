-- one row per run and stretch of time in which it may have called language models as its principal: what none of its children covers
select resource_key as principal_key, tracking_server, workspace, run_id, run_end_rule, interval_start, interval_end
from run_intervals
