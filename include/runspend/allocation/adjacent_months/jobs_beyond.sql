-- Charge periods of the period's jobs that are on the bill of the month before or after. A job ends after a day without a bill line.
-- A job of another month also counts if a line of the period is attached to one of its machines and is at most a day away.
-- A charge period also counts as on the other bill if the period has only corrections of it.
with attached as (
  select distinct attached_to, charge_period_start, charge_period_end
  from billing_lines
  where billing_period = @period and attached_to is not null and charge_period_end > charge_period_start
    and at_most_a_day(charge_period_start, charge_period_end)
    and (charge_period_start < timestamp_add(timestamp(@period), interval 24 hour)
      or charge_period_end > timestamp_sub(timestamp(date_add(@period, interval 1 month)), interval 24 hour))
),
late_days as (
  select distinct attached_to, day
  from attached
  cross join unnest(generate_date_array(date_sub(date(charge_period_start), interval 3 day), date_add(date(charge_period_end), interval 1 day))) as day
  where charge_period_end <= timestamp(@period)
),
reached as (
  select distinct l.job_key, l.charge_period_start, l.charge_period_end
  from billing_lines l
  join attached a on a.attached_to = l.resource_key
  where l.billing_period in (cast(date_sub(@period, interval 1 month) as date), cast(date_add(@period, interval 1 month) as date))
    and l.job_key is not null
    -- Only lines near the ends of the month: a line has at most 25 hours and is at most a day away.
    and (l.billing_period > @period or l.charge_period_end > timestamp_sub(timestamp(@period), interval 50 hour))
    and (l.billing_period < @period or l.charge_period_start < timestamp_add(timestamp(date_add(@period, interval 1 month)), interval 50 hour))
    and l.charge_period_start < timestamp_add(a.charge_period_end, interval 24 hour)
    and l.charge_period_end > timestamp_sub(a.charge_period_start, interval 24 hour)
  union distinct
  -- Jobs whose machines are named by late lines, which are on a later bill than their charge period.
  select l.job_key, l.charge_period_start, l.charge_period_end
  from billing_lines l
  join late_days d on d.attached_to = l.resource_key and d.day = l.charge_date
  join attached a on a.attached_to = l.resource_key
    and l.charge_period_start < timestamp_add(a.charge_period_end, interval 24 hour)
    and l.charge_period_end > timestamp_sub(a.charge_period_start, interval 24 hour)
  where l.billing_period = cast(date_sub(@period, interval 1 month) as date) and l.job_key is not null
),
crossing as (
  select job_key
  from billing_lines
  where billing_period in (months_around(@period))
    and job_key is not null
  group by job_key
  having min(billing_period) < max(billing_period) and countif(billing_period = @period) > 0
  union distinct
  select job_key from reached
),
windows as (
  select
    l.job_key, l.charge_period_start, l.charge_period_end,
    countif(l.billing_period = @period) > 0 as is_of_period,
    countif(l.billing_period <> @period) > 0
      and countif(l.billing_period = @period and l.charge_category = 'Usage' and l.charge_class is null) = 0 as is_beyond,
    countif(r.job_key is not null) > 0 as is_reached
  from billing_lines l
  join crossing c on c.job_key = l.job_key
  left join reached r
    on r.job_key = l.job_key and r.charge_period_start = l.charge_period_start and r.charge_period_end = l.charge_period_end
  where l.billing_period in (months_around(@period))
    and l.run_tag is null and l.charge_category in ('Usage', 'Credit', 'Adjustment') and not is_unused(l.commitment_discount_status, l.capacity_reservation_status)
    and l.charge_period_end > l.charge_period_start
    and at_most_a_day(l.charge_period_start, l.charge_period_end)
  group by l.job_key, l.charge_period_start, l.charge_period_end
),
steps as (
  select
    job_key, charge_period_start, charge_period_end, is_of_period, is_beyond, is_reached,
    case when timestamp_diff(charge_period_start, max(charge_period_end) over (
      partition by job_key order by charge_period_start, charge_period_end
      rows between unbounded preceding and 1 preceding), microsecond) > 86400000000 then 1 else 0 end as begins
  from windows
),
lives as (
  select
    job_key, charge_period_start, charge_period_end, is_of_period, is_beyond, is_reached,
    cast(sum(begins) over (partition by job_key order by charge_period_start, charge_period_end rows between unbounded preceding and current row) as int64) as life
  from steps
)
select l.job_key, l.charge_period_start, l.charge_period_end
from lives l
join (select distinct job_key, life from lives where is_of_period or is_reached) o on o.job_key = l.job_key and o.life = l.life
where l.is_beyond
order by l.job_key, l.charge_period_start, l.charge_period_end
