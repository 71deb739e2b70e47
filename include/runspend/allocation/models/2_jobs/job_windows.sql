-- one row per job and charge period: the billed time, the life of the job to which the charge period belongs, and the month in which that life
-- ended (or the period, if that month is later).
-- A job that crosses the end of the month is not cut:
-- charge periods between @jobs_from and @jobs_until on the bills of the previous and the next month are included.
with skus as (
  select
    job_key, charge_period_start, charge_period_end, coalesce(resource_key, '') as resource_key, coalesce(sku_id, '') as sku_id,
    logical_or(billing_period = @period) as is_of_period,
    min(case when charge_category = 'Usage' and charge_class is null and billing_period = @period then source end) as usage_source,
    nullif(greatest(sum(case when charge_category = 'Usage' and charge_class is null and billing_period = @period then billed_nanoseconds end), 0), 0) as billed_nanoseconds,
    nullif(greatest(sum(case when charge_category = 'Usage' and charge_class is null then billed_nanoseconds end), 0), 0) as every_nanoseconds
  from billing_lines
  where billing_period in (months_around(@period))
    and (billing_period = @period or (charge_period_start >= @jobs_from and charge_period_end <= @jobs_until))
    and job_key is not null and run_tag is null
    and charge_category in ('Usage', 'Credit', 'Adjustment') and not is_unused(commitment_discount_status, capacity_reservation_status)
    and charge_period_end > charge_period_start
    and at_most_a_day(charge_period_start, charge_period_end)
  group by job_key, charge_period_start, charge_period_end, coalesce(resource_key, ''), coalesce(sku_id, '')
),
clusters as (
  -- Clusters and other machines of one job in a charge period.
  select s.resource_key, s.charge_period_start, s.charge_period_end, min(s.job_key) as job_key
  from skus s
  where s.resource_key <> ''
  group by s.resource_key, s.charge_period_start, s.charge_period_end
  having min(s.job_key) = max(s.job_key)
),
job_times as (
  select c.job_key, c.charge_period_start, c.charge_period_end, max(t.billed_nanoseconds) as billed_nanoseconds
  from clusters c
  join cluster_times t on t.resource_key = c.resource_key and t.charge_period_start = c.charge_period_start and t.charge_period_end = c.charge_period_end
  group by c.job_key, c.charge_period_start, c.charge_period_end
),
windows as (
  -- The machines of a job work in parallel, so the time of the job is the longest billed time.
  select
    job_key, charge_period_start, charge_period_end, logical_or(is_of_period) as is_of_period, min(usage_source) as usage_source, max(billed_nanoseconds) as billed_nanoseconds,
    max(every_nanoseconds) as every_nanoseconds,
    count(distinct case when is_of_period then resource_key end) as machines, count(distinct resource_key) as resources,
    timestamp_diff(charge_period_end, charge_period_start, microsecond) * 1000 as window_nanoseconds
  from skus
  group by job_key, charge_period_start, charge_period_end
),
steps as (
  -- Names of jobs are reused. A new life of the job begins after more than a day without a charge.
  select
    job_key, charge_period_start, charge_period_end, is_of_period, usage_source, billed_nanoseconds, every_nanoseconds, machines, resources, window_nanoseconds,
    case when timestamp_diff(charge_period_start, max(charge_period_end) over (w rows between unbounded preceding and 1 preceding), microsecond) > 86400000000 then 1 else 0 end as begins
  from windows
  window w as (partition by job_key order by charge_period_start, charge_period_end)
),
numbered as (
  select
    job_key, charge_period_start, charge_period_end, is_of_period, usage_source, machines, resources, billed_nanoseconds, every_nanoseconds, window_nanoseconds,
    cast(sum(begins) over (partition by job_key order by charge_period_start, charge_period_end rows between unbounded preceding and current row) as int64) as life
  from steps
),
instances as (
  -- If the machine time is longer than the charge period, several machines worked in parallel, such as those of a SageMaker job. Then they
  -- did so in the rest of that life too, even in other months. Up to 5% more is treated as rounding, or as a local day of 25 hours.
  select job_key, life, cast(max(div(every_nanoseconds + window_nanoseconds - 1 - div(window_nanoseconds, 20), window_nanoseconds)) as int64) as number
  from numbered
  where every_nanoseconds > window_nanoseconds + div(window_nanoseconds, 20) and resources = 1
  group by job_key, life
)
select
  l.job_key, l.charge_period_start, l.charge_period_end, l.is_of_period, l.usage_source, l.machines * coalesce(i.number, 1) as machines,
  cast(least(
    coalesce(div(coalesce(l.billed_nanoseconds, l.every_nanoseconds), coalesce(i.number, 1)), c.billed_nanoseconds, l.window_nanoseconds), l.window_nanoseconds) as int64) as billed_nanoseconds,
  -- If the period only corrects a charge period, the time is that on the bill of the other month.
  coalesce(l.billed_nanoseconds, l.every_nanoseconds, c.billed_nanoseconds) is not null as is_timed, l.life,
  charge_month(date(max(l.charge_period_start) over (partition by l.job_key, l.life))) as month
from numbered l
left join instances i on i.job_key = l.job_key and i.life = l.life
left join job_times c on c.job_key = l.job_key and c.charge_period_start = l.charge_period_start and c.charge_period_end = l.charge_period_end
