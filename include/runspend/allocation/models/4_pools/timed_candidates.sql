-- one row per line of a machine that no run states, if a pool or an instance type may allocate the line by time,
-- with its charge period (an hour if it fits in one). Lines of stated machines are in offered_lines.
with allocated as (
  select source, line_id from attached_lines
  union distinct
  select source, line_id from storage_lines
  union distinct
  select source, line_id from llm_lines
)
select
  case when l.pool_key is not null then 'pool_time' else 'instance_type_time' end as match_method,
  coalesce(l.pool_key, c.target_key, lower(l.instance_type)) as target_key,
  case
    when l.charge_period_end <= timestamp_add(timestamp_trunc(l.charge_period_start, hour), interval 1 hour) then timestamp_trunc(l.charge_period_start, hour)
    else l.charge_period_start
  end as window_start,
  case
    when l.charge_period_end <= timestamp_add(timestamp_trunc(l.charge_period_start, hour), interval 1 hour)
      then timestamp_add(timestamp_trunc(l.charge_period_start, hour), interval 1 hour)
    else l.charge_period_end
  end as window_end,
  l.source, l.line_id, l.charge_period_start, l.charge_period_end, l.sub_account_id, l.region_id, l.resource_key, l.job_key, l.charge_category, l.charge_class,
  l.cost_kind, l.sku_id, l.billed_nanoseconds, l.instance_type, l.machine_gpus, l.machine_cpus, l.machine_memory_gb,
  l.service_name, l.billing_currency, l.effective_cost,
  l.pricing_category, c.cell_account, c.cell_region, c.cell_zone, c.cell_option
from rest_lines l
left join allocated s on s.source = l.source and s.line_id = l.line_id
left join line_cells c on c.source = l.source and c.line_id = l.line_id
where s.line_id is null
  and (l.pool_key is not null or l.instance_type is not null)
  and l.line_kind <> 'fee' and coalesce(l.scope, '') <> 'exclude'
  and l.charge_period_end > l.charge_period_start
  and at_most_a_day(l.charge_period_start, l.charge_period_end)
