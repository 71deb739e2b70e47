-- one row per job, charge period and run in that life of the job: the run's share of the charge period, as a range between 0 and 1
with late_lines as (
  select distinct attached_to, charge_period_start, charge_period_end
  from billing_lines
  where billing_period = @period and charge_date < @period and attached_to is not null
    and charge_period_end > charge_period_start and at_most_a_day(charge_period_start, charge_period_end)
),
late_days as (
  -- Days on which a charge period that overlaps a late line may begin. A charge period has at most 25 hours.
  select attached_to, charge_period_start, charge_period_end, day
  from late_lines
  cross join unnest(generate_date_array(date_sub(date(charge_period_start), interval 2 day), date(charge_period_end))) as day
),
late as (
  -- Charge periods of an earlier month's bill for which this bill has late lines of the job's machines, such as VMs of a cluster.
  select distinct w.job_key, w.charge_period_start, w.charge_period_end
  from late_days l
  join job_machines m on m.resource_key = l.attached_to
  join job_windows w on w.job_key = m.job_key and w.life = m.life and date(w.charge_period_start) = l.day
    and w.charge_period_start < l.charge_period_end and w.charge_period_end > l.charge_period_start
  where not w.is_of_period
),
jobs as (
  select distinct machine_number, resource_key as job_key, month
  from run_intervals
),
windows as (
  select
    j.machine_number, w.job_key, w.life, w.charge_period_start, w.charge_period_end, w.machines, w.billed_nanoseconds * 64 as billed_ticks, w.is_timed,
    -- Where no run is active, the clock has no marks.
    coalesce(b.busy_clock - a.busy_clock, 0) as clock_ticks
  from job_windows w
  join jobs j on j.job_key = w.job_key and j.month = w.month
  left join machine_clock a on a.machine_number = j.machine_number and a.mark = w.charge_period_start
  left join machine_clock b on b.machine_number = j.machine_number and b.mark = w.charge_period_end
  left join late t on t.job_key = w.job_key and t.charge_period_start = w.charge_period_start and t.charge_period_end = w.charge_period_end
  where w.is_of_period or t.job_key is not null
),
parts as (
  -- A charge period belongs to every run in that life of the job. Time in which no run is active is overhead, which all of them share.
  -- Names are long, so they are added only at the end.
  select
    w.machine_number, w.life, w.charge_period_start, w.charge_period_end, w.machines, l.run_number,
    coalesce(o.ticks, 0) as ticks,
    cast(sum(coalesce(o.ticks, 0)) over (v rows between unbounded preceding and current row) as int64) as ticks_upto,
    cast(sum(coalesce(o.ticks, 0)) over (partition by w.machine_number, w.charge_period_start, w.charge_period_end) as int64) as own_ticks,
    countif(o.ticks > 0) over (partition by w.machine_number, w.charge_period_start, w.charge_period_end) as runs_in_window,
    w.billed_ticks, w.is_timed, w.clock_ticks,
    cast(sum(l.ticks) over (v rows between unbounded preceding and current row) as int64) as life_upto,
    cast(sum(l.ticks) over (partition by w.machine_number, w.charge_period_start, w.charge_period_end) as int64) as life_ticks,
    l.ticks as own_life_ticks
  from windows w
  join job_lives l on l.machine_number = w.machine_number and l.life = w.life
  left join job_uses o
    on o.job_key = w.job_key and o.run_number = l.run_number
    and o.charge_period_start = w.charge_period_start and o.charge_period_end = w.charge_period_end
  window v as (partition by w.machine_number, w.charge_period_start, w.charge_period_end order by l.run_number)
),
busy as (
  -- The last run that was active gets the remainder of the integer division, as on a machine. The remainder is not overhead.
  select
    machine_number, life, charge_period_start, charge_period_end, machines, run_number, runs_in_window, billed_ticks, is_timed,
    life_upto, life_ticks, own_life_ticks,
    case when own_ticks > 0 then clock_ticks else 0 end as busy_ticks,
    case when own_ticks > 0 and ticks_upto - ticks = own_ticks then clock_ticks else ticks_upto - ticks end as own_before,
    case when own_ticks > 0 and ticks_upto = own_ticks then clock_ticks else ticks_upto end as own_upto
  from parts
),
ends as (
  select
    machine_number, life, charge_period_start, charge_period_end, machines, run_number, runs_in_window, own_before, own_upto,
    greatest(billed_ticks, busy_ticks) as total_ticks,
    busy_ticks > billed_ticks as is_scaled,
    -- machine_ticks: the weight of the charge period among other jobs on the same machines. Without a stated time, it is the time in which
    -- runs were busy. If no run was busy, it is the whole length of the charge period.
    case when is_timed or busy_ticks = 0 then greatest(billed_ticks, busy_ticks) else busy_ticks end as machine_ticks,
    cast(trunc(greatest(billed_ticks - busy_ticks, 0) * ((life_upto - own_life_ticks) / life_ticks)) as int64) as overhead_before,
    case when life_upto = life_ticks then greatest(billed_ticks - busy_ticks, 0)
      else cast(trunc(greatest(billed_ticks - busy_ticks, 0) * (life_upto / life_ticks)) as int64) end as overhead_upto
  from busy
)
select
  l.job_key, e.charge_period_start, e.charge_period_end, l.tracking_server, l.workspace, l.run_id, l.run_end_rule, l.weight_kind, e.is_scaled,
  l.is_ambiguous, l.is_by_machine,
  cast(round((e.own_upto - e.own_before) / 64) as int64) * e.machines as nanoseconds,
  (e.own_before + e.overhead_before) / e.total_ticks as ratio_from,
  (e.own_upto + e.overhead_upto) / e.total_ticks as ratio_to,
  e.own_upto + e.overhead_upto = e.total_ticks as is_last,
  (e.overhead_upto - e.overhead_before) / e.total_ticks as overhead_ratio,
  cast(round(e.machine_ticks / 64) as int64) as machine_nanoseconds,
  cast(round(e.total_ticks / 64) as int64) as whole_nanoseconds,
  e.runs_in_window, q.gpu_count, q.cpu_request, q.memory_request_gb
from ends e
join job_lives l on l.machine_number = e.machine_number and l.life = e.life and l.run_number = e.run_number
left join (
  select tracking_server, workspace, run_id, gpu_count, cpu_request, memory_request_gb
  from window_runs
  where gpu_count is not null or cpu_request is not null or memory_request_gb is not null
) q
  on q.tracking_server = l.tracking_server and q.workspace = l.workspace and q.run_id = l.run_id
where e.own_upto + e.overhead_upto > e.own_before + e.overhead_before
