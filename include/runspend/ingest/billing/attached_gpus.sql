-- For each line of GPUs that Google attaches to a machine: the number of GPUs that the machine has in that charge period.
-- 0.05 is subtracted so that rounding, or a local day of 25 hours, does not add one GPU.
with skus as (
  select
    resource_key, charge_period_start, charge_period_end, sku_id, sum(billed_nanoseconds) as machine_time,
    sum(cast(consumed_quantity as double) * gpu_unit) as gpu_time,
    epoch_us(charge_period_end) * 1000.0 - epoch_us(charge_period_start) * 1000.0 as period_time
  from machine_rows
  where charge_category = 'Usage'
  group by resource_key, charge_period_start, charge_period_end, sku_id
),
windows as (
  select
    resource_key, charge_period_start, charge_period_end, sum(gpu_time) / nullif(greatest(max(machine_time), 0), 0) as used,
    ceil(sum(gpu_time) / nullif(max(period_time), 0) - 0.05) as at_least
  from skus
  group by resource_key, charge_period_start, charge_period_end
),
machines as (
  select
    resource_key, charge_period_start, charge_period_end,
    coalesce(round(used), max(at_least) over (partition by resource_key)) as gpus
  from windows
)
select r.position, cast(m.gpus as bigint) as gpus
from machine_rows r
join machines m using (resource_key, charge_period_start, charge_period_end)
where r.is_counted and m.gpus > 0
order by r.position
