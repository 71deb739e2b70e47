-- one row per job and charge period whose cost runs of the job share.
select distinct job_key, charge_period_start, charge_period_end
from job_targets
