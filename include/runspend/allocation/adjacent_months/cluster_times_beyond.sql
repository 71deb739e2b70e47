-- Times of machines that are on another month's bill and name a cluster of the period. `cluster_times.sql` uses them too.
-- One row per machine, SKU and charge period in which the period charges the cluster and states no time for it.
with machines as (
  select attached_to, resource_key, sku_id, charge_period_start, charge_period_end, cast(sum(billed_nanoseconds) as int64) as billed_nanoseconds
  from billing_lines
  where billing_period in (cast(date_sub(@period, interval 1 month) as date), cast(date_add(@period, interval 1 month) as date))
    and attached_to is not null and resource_key is not null and job_key is null and run_tag is null and charge_category = 'Usage' and charge_class is null
    and billed_nanoseconds > 0 and service_category in ('Compute', 'AI and Machine Learning')
  group by attached_to, resource_key, sku_id, charge_period_start, charge_period_end
),
clusters as (
  -- Few bills have machines that name a cluster. Without such machines, the period's lines need not be grouped.
  select l.resource_key, l.charge_period_start, l.charge_period_end
  from billing_lines l
  join (select distinct attached_to, charge_period_start, charge_period_end from machines) m
    on m.attached_to = l.resource_key and m.charge_period_start = l.charge_period_start and m.charge_period_end = l.charge_period_end
  where l.billing_period = @period
  group by l.resource_key, l.charge_period_start, l.charge_period_end
  having countif(l.charge_category = 'Usage' and l.charge_class is null and l.billed_nanoseconds > 0) = 0
)
select m.attached_to, m.resource_key, m.sku_id, m.charge_period_start, m.charge_period_end, m.billed_nanoseconds
from machines m
join clusters c
  on c.resource_key = m.attached_to and c.charge_period_start = m.charge_period_start and c.charge_period_end = m.charge_period_end
order by m.attached_to, m.charge_period_start, m.charge_period_end, m.resource_key, m.sku_id
