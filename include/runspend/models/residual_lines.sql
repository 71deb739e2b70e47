-- one row per line of a machine that serves runs and is offered to the rules after: what the runs that state the machine leave of it.
-- The cost is the line's without the last bound of these runs, made a decimal as in cost_allocations: together they are the line.
with slots as (
  select
    resource_key, charge_period_start, charge_period_end, max(case when allocated_to = 'idle' then ratio_before end) as ratio_before,
    max(case when allocated_to = 'idle' then nanoseconds end) as nanoseconds
  from slot_targets
  group by resource_key, charge_period_start, charge_period_end
),
lines as (
  select
    l.source, l.billing_period, l.line_id, l.charge_date, l.charge_period_start, l.charge_period_end, l.service_provider_name, l.billing_account_id,
    l.sub_account_id, l.region_id, l.service_name, l.charge_category, l.resource_id, l.resource_key, l.invoice_id, l.billing_currency,
    l.list_cost, l.contracted_cost, l.effective_cost, l.billed_cost, l.scope, l.line_kind, l.cost_kind, l.pricing_category,
    l.sku_id, l.charge_class, l.billed_nanoseconds, l.instance_type, l.machine_gpus, l.machine_cpus, l.machine_memory_gb,
    l.job_key, l.attached_to, l.group_keys, l.storage_key, l.storage_class, l.pool_key, l.line_team, l.line_project, l.line_cost_center, l.line_owner, l.is_inside,
    s.ratio_before, s.nanoseconds as free_nanoseconds,
    cast(cast(l.list_cost as string) as float64) * s.ratio_before as list_before,
    cast(cast(l.contracted_cost as string) as float64) * s.ratio_before as contracted_before,
    cast(cast(l.effective_cost as string) as float64) * s.ratio_before as effective_before,
    cast(cast(l.billed_cost as string) as float64) * s.ratio_before as billed_before
  from ledger_lines l
  left join slots s on s.resource_key = l.resource_key and s.charge_period_start = l.charge_period_start and s.charge_period_end = l.charge_period_end
  -- a window that runs fill has nothing left; one that none reached is left whole
  where l.is_offered and (s.resource_key is null or s.ratio_before is not null)
)
select
  source, billing_period, line_id, charge_date, charge_period_start, charge_period_end, service_provider_name, billing_account_id,
  sub_account_id, region_id, service_name, charge_category, resource_id, resource_key, invoice_id, billing_currency,
  case
    when ratio_before > 0 then list_cost - cast(cast(trunc(list_before) as int64) + cast(round((list_before - trunc(list_before)) * 1e18) as int64) * bignumeric '0.000000000000000001' as bignumeric)
    else list_cost
  end as list_cost,
  case
    when ratio_before > 0 then contracted_cost - cast(cast(trunc(contracted_before) as int64) + cast(round((contracted_before - trunc(contracted_before)) * 1e18) as int64) * bignumeric '0.000000000000000001' as bignumeric)
    else contracted_cost
  end as contracted_cost,
  case
    when ratio_before > 0 then effective_cost - cast(cast(trunc(effective_before) as int64) + cast(round((effective_before - trunc(effective_before)) * 1e18) as int64) * bignumeric '0.000000000000000001' as bignumeric)
    else effective_cost
  end as effective_cost,
  case
    when ratio_before > 0 then billed_cost - cast(cast(trunc(billed_before) as int64) + cast(round((billed_before - trunc(billed_before)) * 1e18) as int64) * bignumeric '0.000000000000000001' as bignumeric)
    else billed_cost
  end as billed_cost,
  scope, line_kind, cost_kind, pricing_category,
  sku_id, charge_class, billed_nanoseconds, instance_type, machine_gpus, machine_cpus, machine_memory_gb,
  job_key, attached_to, group_keys, storage_key, storage_class, pool_key, line_team, line_project, line_cost_center, line_owner, is_inside,
  free_nanoseconds, coalesce(ratio_before, 0.0) as line_from
from lines
