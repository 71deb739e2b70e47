-- one row per life of a job and machine that its charges name: the time range of these charges
with charges as (
  select distinct job_key, resource_key, charge_period_start, charge_period_end
  from billing_lines
  where billing_period in (months_around(@period))
    and (billing_period = @period or (charge_period_start >= @jobs_from and charge_period_end <= @jobs_until))
    and job_key is not null and resource_key is not null and run_tag is null
)
select w.job_key, w.life, c.resource_key, min(c.charge_period_start) as billed_from, max(c.charge_period_end) as billed_until
from charges c
join job_windows w on w.job_key = c.job_key and w.charge_period_start = c.charge_period_start and w.charge_period_end = c.charge_period_end
group by w.job_key, w.life, c.resource_key
