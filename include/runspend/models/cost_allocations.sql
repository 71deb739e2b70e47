-- one row per charge and target: a bill line, and the run, idle time or pot its money went to
with placed as (
  select
    l.source, l.billing_period, l.line_id as charge_id, l.charge_date, l.charge_period_start, l.charge_period_end, l.service_provider_name,
    l.billing_account_id, l.sub_account_id, l.region_id, l.service_name, l.charge_category, l.resource_id, l.invoice_id, l.cost_kind,
    l.billing_currency, l.list_cost, l.contracted_cost, l.effective_cost, l.billed_cost,
    case
      when g.run_tag is not null then 'run'
      when l.run_tag is not null then 'unmatched'
      when t.resource_key is not null then t.allocated_to
      when l.line_kind = 'fee' then 'shared'
      when l.line_kind = 'timed' and k.resource_key is not null then 'idle'
      else 'unmatched'
    end as allocated_to,
    coalesce(g.tracking_server, t.tracking_server) as tracking_server,
    coalesce(g.workspace, t.workspace) as workspace,
    case when l.run_tag is null then t.run_id else g.run_tag end as run_id,
    case
      when l.run_tag is not null then 'run_tag'
      when t.resource_key is not null or (l.line_kind = 'timed' and k.resource_key is not null) then 'resource_id'
      else 'none'
    end as match_method,
    case
      when g.run_tag is not null then cast(null as string)
      when l.run_tag is not null then 'unknown_run'
      when t.allocated_to = 'run' then cast(null as string)
      when l.line_kind = 'fee' then 'fee'
      when l.line_kind = 'timed' then 'no_run'
      else 'not_timed'
    end as reason,
    t.weight_kind, t.run_end_rule,
    coalesce(t.is_scaled, false) as is_scaled,
    coalesce(t.ratio_before, 0.0) as ratio_before,
    coalesce(t.ratio_upto, 1.0) as ratio_upto,
    coalesce(t.is_last, true) as is_last,
    -- what a machine rented for the run had and the run did not ask for
    case
      when g.gpu_count is not null and u.machine_gpus is not null then greatest(0.0, 1.0 - g.gpu_count / u.machine_gpus)
      when g.cpu_request is not null and u.machine_cpus is not null then greatest(0.0, 1.0 - g.cpu_request / u.machine_cpus)
      when g.memory_request_gb is not null and u.machine_memory_gb is not null then greatest(0.0, 1.0 - g.memory_request_gb / u.machine_memory_gb)
    end as unused_ratio
  from (
    select
      *,
      case when line_kind = 'timed' and run_tag is null then resource_key end as slot_resource_key,
      case when run_tag is not null then resource_key end as tagged_resource_key
    from ledger_lines
    where is_inside
  ) l
  left join tagged_runs g on g.run_tag = l.run_tag
  left join slot_targets t
    on t.resource_key = l.slot_resource_key and t.charge_period_start = l.charge_period_start and t.charge_period_end = l.charge_period_end
  left join known_machines k on k.resource_key = l.resource_key and k.month = date_trunc(l.charge_date, month)
  left join machine_units u on u.resource_key = l.tagged_resource_key
),
floats as (
  -- floats only as products, each once; the decimals come from them through integers, the same on every engine
  select
    source, billing_period, charge_id, charge_date, charge_period_start, charge_period_end, service_provider_name, billing_account_id,
    sub_account_id, region_id, service_name, charge_category, resource_id, invoice_id, cost_kind, billing_currency,
    list_cost, contracted_cost, effective_cost, billed_cost, allocated_to, tracking_server, workspace, run_id, match_method, reason,
    weight_kind, run_end_rule, is_scaled, ratio_before, ratio_upto, is_last,
    case when ratio_before > 0 then cast(cast(list_cost as string) as float64) * ratio_before end as list_before,
    case when not is_last then cast(cast(list_cost as string) as float64) * ratio_upto end as list_upto,
    case when ratio_before > 0 then cast(cast(contracted_cost as string) as float64) * ratio_before end as contracted_before,
    case when not is_last then cast(cast(contracted_cost as string) as float64) * ratio_upto end as contracted_upto,
    case when ratio_before > 0 then cast(cast(effective_cost as string) as float64) * ratio_before end as effective_before,
    case when not is_last then cast(cast(effective_cost as string) as float64) * ratio_upto end as effective_upto,
    case when ratio_before > 0 then cast(cast(billed_cost as string) as float64) * ratio_before end as billed_before,
    case when not is_last then cast(cast(billed_cost as string) as float64) * ratio_upto end as billed_upto,
    case when unused_ratio is not null then cast(cast(effective_cost as string) as float64) * unused_ratio end as unused
  from placed
),
bounds as (
  select
    source, billing_period, charge_id, charge_date, charge_period_start, charge_period_end, service_provider_name, billing_account_id,
    sub_account_id, region_id, service_name, charge_category, resource_id, invoice_id, cost_kind, billing_currency,
    allocated_to, tracking_server, workspace, run_id, match_method, reason, weight_kind, run_end_rule, is_scaled,
    ratio_upto - ratio_before as allocated_ratio,
    -- the last bound is the cost itself: the parts add up to it whatever the floats did
    case when ratio_before = 0 then bignumeric '0' else cast(cast(trunc(list_before) as int64) + cast(round((list_before - trunc(list_before)) * 1e18) as int64) * bignumeric '0.000000000000000001' as bignumeric) end as list_from,
    case when is_last then list_cost else cast(cast(trunc(list_upto) as int64) + cast(round((list_upto - trunc(list_upto)) * 1e18) as int64) * bignumeric '0.000000000000000001' as bignumeric) end as list_to,
    case when ratio_before = 0 then bignumeric '0' else cast(cast(trunc(contracted_before) as int64) + cast(round((contracted_before - trunc(contracted_before)) * 1e18) as int64) * bignumeric '0.000000000000000001' as bignumeric) end as contracted_from,
    case when is_last then contracted_cost else cast(cast(trunc(contracted_upto) as int64) + cast(round((contracted_upto - trunc(contracted_upto)) * 1e18) as int64) * bignumeric '0.000000000000000001' as bignumeric) end as contracted_to,
    case when ratio_before = 0 then bignumeric '0' else cast(cast(trunc(effective_before) as int64) + cast(round((effective_before - trunc(effective_before)) * 1e18) as int64) * bignumeric '0.000000000000000001' as bignumeric) end as effective_from,
    case when is_last then effective_cost else cast(cast(trunc(effective_upto) as int64) + cast(round((effective_upto - trunc(effective_upto)) * 1e18) as int64) * bignumeric '0.000000000000000001' as bignumeric) end as effective_to,
    case when ratio_before = 0 then bignumeric '0' else cast(cast(trunc(billed_before) as int64) + cast(round((billed_before - trunc(billed_before)) * 1e18) as int64) * bignumeric '0.000000000000000001' as bignumeric) end as billed_from,
    case when is_last then billed_cost else cast(cast(trunc(billed_upto) as int64) + cast(round((billed_upto - trunc(billed_upto)) * 1e18) as int64) * bignumeric '0.000000000000000001' as bignumeric) end as billed_to,
    cast(cast(trunc(unused) as int64) + cast(round((unused - trunc(unused)) * 1e18) as int64) * bignumeric '0.000000000000000001' as bignumeric) as unused_cost
  from floats
)
select
  source, billing_period, charge_id,
  case when allocated_to = 'run' then concat(tracking_server, '/', workspace, '/', run_id) else allocated_to end as target_id,
  charge_date, charge_period_start, charge_period_end, service_provider_name, billing_account_id, sub_account_id, region_id, service_name,
  charge_category, resource_id, invoice_id, cost_kind, allocated_to, tracking_server, workspace,
  case when allocated_to = 'run' then run_id end as run_id,
  allocated_ratio,
  list_to - list_from as list_cost,
  contracted_to - contracted_from as contracted_cost,
  effective_to - effective_from as effective_cost,
  billed_to - billed_from as billed_cost,
  billing_currency, unused_cost, match_method,
  case match_method when 'run_tag' then 'exact' when 'resource_id' then 'high' end as confidence,
  reason, weight_kind, run_end_rule, is_scaled,
  case when invoice_id is null then 'provisional' else 'final' end as cost_status
from bounds
