-- one row per job and charge period in which runs of the job share its cost.
select distinct job_key, charge_period_start, charge_period_end
from job_targets
