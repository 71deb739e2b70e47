-- one row per line, or rest of a line, that the first three rules leave and that a rule pricing a pool may still allocate.
-- For a machine that runs state, it is the rest of each line after these runs: the line's cost minus the last bound of theirs.
-- That bound becomes a decimal as in cost_allocations, so both parts add up to the line.
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
  -- A charge period that runs fill leaves nothing. One that no run reached is left whole.
  where l.is_offered and (s.resource_key is null or s.ratio_from is not null)
),
before as (
  select
    *,
    case when ratio_from is not null then cast(cast(list_cost as string) as float64) * ratio_from end as list_before,
    case when ratio_from is not null then cast(cast(contracted_cost as string) as float64) * ratio_from end as contracted_before,
    case when ratio_from is not null then cast(cast(effective_cost as string) as float64) * ratio_from end as effective_before,
    case when ratio_from is not null then cast(cast(billed_cost as string) as float64) * ratio_from end as billed_before
  from lines
)
select
  source, billing_period, line_id, charge_date, charge_period_start, charge_period_end, service_provider_name, billing_account_id,
  sub_account_id, region_id, service_name, charge_category, resource_id, resource_key, invoice_id, billing_currency,
  list_cost, contracted_cost, effective_cost, billed_cost, scope, line_kind, cost_kind, pricing_category,
  sku_id, charge_class, billed_nanoseconds, instance_type, machine_gpus, machine_cpus, machine_memory_gb,
  attached_to, group_keys, storage_key, storage_class, pool_key, line_team, line_project, line_cost_center, line_owner, is_inside,
  cast(null as string) as known_by, cast(null as int64) as free_nanoseconds, 0.0 as line_from
from ledger_lines
where settled_by = 'rest'
union all
select
  source, billing_period, line_id, charge_date, charge_period_start, charge_period_end, service_provider_name, billing_account_id,
  sub_account_id, region_id, service_name, charge_category, resource_id, resource_key, invoice_id, billing_currency,
  case
    when ratio_from is not null then list_cost - exact_money(list_before)
    else list_cost
  end as list_cost,
  case
    when ratio_from is not null then contracted_cost - exact_money(contracted_before)
    else contracted_cost
  end as contracted_cost,
  case
    when ratio_from is not null then effective_cost - exact_money(effective_before)
    else effective_cost
  end as effective_cost,
  case
    when ratio_from is not null then billed_cost - exact_money(billed_before)
    else billed_cost
  end as billed_cost,
  scope, line_kind, cost_kind, pricing_category,
  sku_id, charge_class, billed_nanoseconds, instance_type, machine_gpus, machine_cpus, machine_memory_gb,
  attached_to, group_keys, storage_key, storage_class, pool_key, line_team, line_project, line_cost_center, line_owner, is_inside,
  'resource_id', free_nanoseconds, coalesce(ratio_from, 0.0)
from before
