-- one row per run and time range in which it may have called language models as its principal, without the time its children cover
select resource_key as principal_key, tracking_server, workspace, run_id, run_end_rule, interval_start, interval_end
from run_intervals
