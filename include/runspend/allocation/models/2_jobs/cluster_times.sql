-- one row per resource that machines name, such as a cluster, and charge period: the time of the machine that was billed longest.
-- It is used as the time of the cluster's own lines, because DBU lines have no time.
with machines as (
  select attached_to, resource_key, sku_id, charge_period_start, charge_period_end, sum(billed_nanoseconds) as billed_nanoseconds
  from billing_lines
  where billing_period in (months_around(@period))
    and attached_to is not null and resource_key is not null and job_key is null and run_tag is null and charge_category = 'Usage' and charge_class is null
    and billed_nanoseconds > 0 and service_category in ('Compute', 'AI and Machine Learning')
  group by attached_to, resource_key, sku_id, charge_period_start, charge_period_end
)
select attached_to as resource_key, charge_period_start, charge_period_end, max(billed_nanoseconds) as billed_nanoseconds
from machines
group by attached_to, charge_period_start, charge_period_end
