-- one row per charge of attached lines and target, as a range between 0 and 1
select
  c.source, c.billing_period, c.charge_id, c.charge_date, c.charge_period_start, c.charge_period_end, c.service_provider_name, c.billing_account_id,
  c.sub_account_id, c.region_id, c.service_name, c.charge_category, c.resource_id, c.invoice_id, c.cost_kind, c.billing_currency,
  c.list_cost, c.contracted_cost, c.effective_cost, c.billed_cost,
  case when t.allocated_to <> 'rest' then t.allocated_to when c.is_inside then 'unallocated' else 'out_of_scope' end as allocated_to,
  t.tracking_server, t.workspace, t.run_id, cast(null as string) as owner_id,
  'attached' as match_method, case when t.allocated_to <> 'rest' then t.confidence end as confidence,
  case when t.allocated_to <> 'rest' or c.is_inside then t.reason when c.scope is null then 'default_scope' else 'explicit_scope' end as reason,
  c.target_key as pool_key, t.weight_kind, t.run_end_rule, t.is_scaled, t.ratio_from, t.ratio_to, t.is_last,
  case when t.ratio_from > 0 or not t.is_last then cast(cast(c.list_cost as string) as float64) end as list_float,
  case when t.ratio_from > 0 or not t.is_last then cast(cast(c.contracted_cost as string) as float64) end as contracted_float,
  case when t.ratio_from > 0 or not t.is_last then cast(cast(c.effective_cost as string) as float64) end as effective_float,
  case when t.ratio_from > 0 or not t.is_last then cast(cast(c.billed_cost as string) as float64) end as billed_float,
  1.0 as charge_part, cast(null as float64) as unused_ratio, cast(null as float64) as overhead_ratio,
  c.line_team, c.line_project, c.line_cost_center, c.line_owner
from attached_sums c
join attached_targets t on t.target_key = c.target_key and t.window_start = c.window_start and t.window_end = c.window_end
