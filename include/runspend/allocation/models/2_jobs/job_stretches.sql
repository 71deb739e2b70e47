-- one row per machine that runs state, job, and stretch of time in which the bill gives the machine to that job without a break.
-- sole_from, sole_until: a part of the stretch in which only this job has charges and every line has a job.
-- A stretch has one row for each such part, and no row if there is none.
-- Time ranges are merged in two steps: first, the beginning of each range is marked (`begins`); then the marks are counted.
with machines as (
  select distinct j.resource_key
  from job_machines j
  join (select distinct resource_key as named from stated_machines) s on s.named = j.resource_key
),
charges as (
  select distinct l.resource_key, coalesce(l.job_key, '') as job_key, l.charge_period_start, l.charge_period_end
  from billing_lines l
  join machines m on m.resource_key = l.resource_key
  where l.billing_period in (months_around(@period))
    and (l.billing_period = @period or (l.charge_period_start >= @jobs_from and l.charge_period_end <= @jobs_until))
    and l.run_tag is null and l.charge_category = 'Usage' and l.charge_class is null and l.charge_period_end > l.charge_period_start
    and at_most_a_day(l.charge_period_start, l.charge_period_end)
    -- Of lines without a job, only machine time counts, because traffic and licenses may lack the machine's tags.
    and (l.job_key is not null or ((l.billed_nanoseconds > 0 or l.instance_type is not null) and l.service_category in ('Compute', 'AI and Machine Learning')))
),
charge_starts as (
  select
    resource_key, job_key, charge_period_start, charge_period_end,
    case when charge_period_start >= max(charge_period_end) over (w rows between unbounded preceding and 1 preceding) then 1 else 0 end as begins
  from charges
  window w as (partition by resource_key order by charge_period_start, charge_period_end, job_key)
),
blocks as (
  -- Groups of overlapping charge periods. Most groups have one hour.
  select
    resource_key, job_key, charge_period_start, charge_period_end,
    sum(begins) over (
      partition by resource_key order by charge_period_start, charge_period_end, job_key
      rows between unbounded preceding and current row) as block
  from charge_starts
),
sole_blocks as (
  select resource_key, block, min(job_key) = max(job_key) as is_sole
  from blocks
  group by resource_key, block
),
job_blocks as (
  select b.resource_key, b.job_key, b.block, j.is_sole, min(b.charge_period_start) as block_start, max(b.charge_period_end) as block_end
  from blocks b
  join sole_blocks j on j.resource_key = b.resource_key and j.block = b.block
  where b.job_key <> ''
  group by b.resource_key, b.job_key, b.block, j.is_sole
),
block_starts as (
  select
    resource_key, job_key, is_sole, block_start, block_end,
    case when block_start > lag(block_end) over (partition by resource_key, job_key order by block_start) then 1 else 0 end as begins
  from job_blocks
),
numbered_blocks as (
  select
    resource_key, job_key, is_sole, block_start, block_end,
    sum(begins) over (w rows between unbounded preceding and current row) as stretch,
    countif(not is_sole) over (w rows between unbounded preceding and current row) as part
  from block_starts
  window w as (partition by resource_key, job_key order by block_start)
),
stretches as (
  select
    resource_key, job_key, is_sole, block_start, block_end, stretch, part,
    min(block_start) over (partition by resource_key, job_key, stretch) as billed_from,
    max(block_end) over (partition by resource_key, job_key, stretch) as billed_until
  from numbered_blocks
)
select resource_key, job_key, billed_from, billed_until, min(block_start) as sole_from, max(block_end) as sole_until
from stretches
where is_sole
group by resource_key, job_key, billed_from, billed_until, stretch, part
