-- Lines of other months between @jobs_from and @jobs_until that name a job, name a machine of a job, or are attached to one.
with machines as (
  select distinct resource_key
  from billing_lines
  where billing_period in (months_around(@period))
    and job_key is not null and resource_key is not null
)
select
  l.billing_period, l.job_key, l.resource_key, l.charge_period_start, l.charge_period_end, l.charge_category, l.charge_class, l.sku_id,
  l.attached_to, l.instance_type, l.service_category, l.commitment_discount_status, l.capacity_reservation_status, l.billed_nanoseconds, l.run_tag
from billing_lines l
left join machines m on m.resource_key = l.resource_key
left join machines a on a.resource_key = l.attached_to
where l.billing_period in (cast(date_sub(@period, interval 1 month) as date), cast(date_add(@period, interval 1 month) as date))
  and l.charge_period_start >= @jobs_from and l.charge_period_end <= @jobs_until and (l.job_key is not null or m.resource_key is not null or a.resource_key is not null)
order by l.billing_period, l.source, l.line_id
