-- one row per job and charge window of its lines that runs of the job share
select distinct job_key, charge_period_start, charge_period_end
from job_targets
