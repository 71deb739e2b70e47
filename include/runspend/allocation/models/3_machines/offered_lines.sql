-- one row per line of a stated machine that is offered to runs of a pool or an instance type: the part that the runs that state the machine
-- leave. It is the cost of the line minus the running total of those runs.
-- This total is converted to a decimal as in cost_allocations, so that both parts add up to the cost of the line.
with slots as (
  select
    resource_key, charge_period_start, charge_period_end, max(case when allocated_to = 'idle' then ratio_from end) as ratio_from,
    max(case when allocated_to = 'idle' then nanoseconds end) as nanoseconds
  from slot_targets
  group by resource_key, charge_period_start, charge_period_end
),
lines as (
  select
    l.*, s.nanoseconds as free_nanoseconds, case when s.ratio_from > 0 then s.ratio_from end as ratio_from
  from ledger_lines l
  left join slots s on s.resource_key = l.resource_key and s.charge_period_start = l.charge_period_start and s.charge_period_end = l.charge_period_end
  -- If runs use a whole charge period, no part of it is offered. If no run is active in it, all of it is offered.
  where l.is_offered and (s.resource_key is null or s.ratio_from is not null)
),
before as (
  select
    l.*,
    l.charge_period_end <= timestamp_add(timestamp_trunc(l.charge_period_start, hour), interval 1 hour) as is_in_an_hour,
    case when l.ratio_from is not null then cast(cast(l.list_cost as string) as float64) * l.ratio_from end as list_before,
    case when l.ratio_from is not null then cast(cast(l.contracted_cost as string) as float64) * l.ratio_from end as contracted_before,
    case when l.ratio_from is not null then cast(cast(l.effective_cost as string) as float64) * l.ratio_from end as effective_before,
    case when l.ratio_from is not null then cast(cast(l.billed_cost as string) as float64) * l.ratio_from end as billed_before,
    c.target_key as cell_key, c.cell_account, c.cell_region, c.cell_zone, c.cell_option,
    b.block_number
  from lines l
  left join line_cells c on c.source = l.source and c.line_id = l.line_id
  left join machine_blocks b on b.resource_key = l.resource_key
)
select
  source, billing_period, line_id, charge_date, charge_period_start, charge_period_end, service_provider_name, billing_account_id,
  sub_account_id, region_id, service_name, charge_category, resource_id, resource_key, invoice_id, billing_currency,
  case when ratio_from is not null then list_cost - exact_money(list_before) else list_cost end as list_cost,
  case when ratio_from is not null then contracted_cost - exact_money(contracted_before) else contracted_cost end as contracted_cost,
  case when ratio_from is not null then effective_cost - exact_money(effective_before) else effective_cost end as effective_cost,
  case when ratio_from is not null then billed_cost - exact_money(billed_before) else billed_cost end as billed_cost,
  scope, line_kind, cost_kind, sku_id, charge_class, billed_nanoseconds, instance_type, machine_gpus, machine_cpus, machine_memory_gb,
  line_team, line_project, line_cost_center, line_owner, is_inside,
  free_nanoseconds, coalesce(ratio_from, 0.0) as line_from,
  case when pool_key is not null then 'pool_time' else 'instance_type_time' end as match_method,
  coalesce(pool_key, cell_key, lower(instance_type)) as target_key,
  case when is_in_an_hour then timestamp_trunc(charge_period_start, hour) else charge_period_start end as window_start,
  case when is_in_an_hour then timestamp_add(timestamp_trunc(charge_period_start, hour), interval 1 hour) else charge_period_end end as window_end,
  cell_account, cell_region, cell_zone, cell_option, block_number
from before
