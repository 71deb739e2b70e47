-- one row per machine and earlier month for which a charge of this period does not state the machine's size, region or purchase option.
-- They come from that month's own bill, and so does the instance type. Of a size, the largest counts; of the others, only a single one.
with late as (
  select distinct resource_key, cast(date_trunc(charge_date, month) as date) as month
  from billing_lines
  where billing_period = @period and charge_date < @period and resource_key is not null
    and ((machine_gpus is null and machine_cpus is null and machine_memory_gb is null) or region_id is null or pricing_category is null)
)
select
  l.resource_key, l.month,
  nullif(max(b.machine_gpus), 0) as machine_gpus, nullif(max(b.machine_cpus), 0) as machine_cpus, nullif(max(b.machine_memory_gb), 0) as machine_memory_gb,
  case when min(lower(b.instance_type)) = max(lower(b.instance_type)) then min(lower(b.instance_type)) end as instance_type,
  case when min(lower(b.region_id)) = max(lower(b.region_id)) then min(lower(b.region_id)) end as region_id,
  case when min(lower(b.availability_zone)) = max(lower(b.availability_zone)) then min(lower(b.availability_zone)) end as availability_zone,
  case when min(purchase_option(b.pricing_category)) = max(purchase_option(b.pricing_category)) then min(purchase_option(b.pricing_category)) end as purchase_option
from late l
join billing_lines b on b.resource_key = l.resource_key and b.billing_period = l.month
where b.billing_period >= cast(date_trunc(date(@window_start), month) as date) and b.billing_period < @period
group by l.resource_key, l.month
