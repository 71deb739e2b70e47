-- one row per charge and target. A charge is one bill line, or several that are priced together. A target is a run, idle time or shared cost
with products as (
  -- Each float is multiplied only once. Products become decimals by way of integers, so that every engine gets the same result.
  select
    *,
    list_float * ratio_from as list_before, list_float * ratio_to as list_upto,
    contracted_float * ratio_from as contracted_before, contracted_float * ratio_to as contracted_upto,
    effective_float * ratio_from as effective_before, effective_float * ratio_to as effective_upto,
    billed_float * ratio_from as billed_before, billed_float * ratio_to as billed_upto,
    effective_float * unused_ratio as unused, effective_float * overhead_ratio as overhead
  from charge_targets
),
bounds as (
  select
    source, billing_period, charge_id, charge_date, charge_period_start, charge_period_end, service_provider_name, billing_account_id,
    sub_account_id, region_id, service_name, charge_category, resource_id, invoice_id, cost_kind, billing_currency,
    allocated_to, tracking_server, workspace, run_id, owner_id, match_method, confidence, reason, pool_key,
    weight_kind, run_end_rule, is_scaled, line_team, line_project, line_cost_center, line_owner,
    (ratio_to - ratio_from) * charge_part as allocated_ratio,
    -- The last bound is the cost itself, so that the parts add up to it in spite of float rounding.
    case when ratio_from = 0 then bignumeric '0' else exact_money(list_before) end as list_from,
    case when is_last then list_cost else exact_money(list_upto) end as list_to,
    case when ratio_from = 0 then bignumeric '0' else exact_money(contracted_before) end as contracted_from,
    case when is_last then contracted_cost else exact_money(contracted_upto) end as contracted_to,
    case when ratio_from = 0 then bignumeric '0' else exact_money(effective_before) end as effective_from,
    case when is_last then effective_cost else exact_money(effective_upto) end as effective_to,
    case when ratio_from = 0 then bignumeric '0' else exact_money(billed_before) end as billed_from,
    case when is_last then billed_cost else exact_money(billed_upto) end as billed_to,
    case when unused = 0 then bignumeric '0' else exact_money(unused) end as unused_cost,
    case when overhead = 0 then bignumeric '0' else exact_money(overhead) end as overhead_cost
  from products
)
select
  b.source, b.billing_period, b.charge_id,
  case
    when b.allocated_to = 'run' then concat(b.tracking_server, '/', b.workspace, '/', b.run_id)
    when b.allocated_to = 'logged_model' then concat(b.tracking_server, '/', b.workspace, '/', b.owner_id)
    else b.allocated_to
  end as target_id,
  b.charge_date, b.charge_period_start, b.charge_period_end, b.service_provider_name, b.billing_account_id, b.sub_account_id, b.region_id, b.service_name,
  b.charge_category, b.resource_id, b.invoice_id, b.cost_kind, b.allocated_to, b.tracking_server, b.workspace,
  case when b.allocated_to = 'run' then b.run_id end as run_id,
  case when b.allocated_to = 'logged_model' then b.owner_id end as owner_id,
  b.allocated_ratio,
  b.list_to - b.list_from as list_cost,
  b.contracted_to - b.contracted_from as contracted_cost,
  b.effective_to - b.effective_from as effective_cost,
  b.billed_to - b.billed_from as billed_cost,
  b.billing_currency, b.unused_cost, b.overhead_cost, b.match_method,
  case
    when b.confidence is null then cast(null as string)
    -- If the end of a run is a guess, its time is a guess too. If several machines or jobs share a name, the cost may belong to another run.
    when b.run_end_rule in ('silent', 'started') then 'low'
    -- A wrong clock, or a run that was stopped and resumed, also lowers the confidence by one step.
    when b.run_end_rule in ('future', 'resumed') then
      case when b.reason = 'ambiguous_name' then 'low' when b.confidence = 'exact' then 'high' when b.confidence = 'high' then 'medium' else 'low' end
    when b.reason = 'ambiguous_name' and b.confidence in ('exact', 'high') then 'medium'
    else b.confidence
  end as confidence,
  b.pool_key, b.reason, b.weight_kind, b.run_end_rule, b.is_scaled,
  case when p.state in ('final', 'closed') then 'final' else 'provisional' end as cost_status,
  b.line_team, b.line_project, b.line_cost_center, b.line_owner
from bounds b
left join period_states p on p.source = b.source and p.billing_period = b.billing_period
