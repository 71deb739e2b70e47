-- one row per charge of a rule that prices lines together and target, as a range between 0 and 1
select
  c.source, c.billing_period, c.charge_id, c.charge_date, c.charge_period_start, c.charge_period_end, c.service_provider_name, c.billing_account_id,
  c.sub_account_id, c.region_id, c.service_name, c.charge_category, c.resource_id, c.invoice_id, c.cost_kind, c.billing_currency,
  c.list_cost, c.contracted_cost, c.effective_cost, c.billed_cost,
  case when t.allocated_to <> 'rest' then t.allocated_to when c.known_by is not null then 'idle' when c.is_inside then 'unallocated' else 'out_of_scope' end as allocated_to,
  t.tracking_server, t.workspace, t.run_id, t.owner_id,
  -- Idle time keeps the rule that identified the machine.
  case when c.known_by is not null and t.allocated_to in ('idle', 'rest') then c.known_by else c.match_method end as match_method,
  case
    when t.allocated_to = 'rest' and c.known_by is null then cast(null as string)
    -- Bytes of a bucket that an inventory does not list may belong to other owners.
    when c.match_method = 'artifact_bytes' and t.reason = 'incomplete_inventory' then 'medium'
    -- Other runs may have made calls with the same principal.
    when c.match_method = 'llm_identity' and t.reason = 'silent_caller' then 'high'
    when c.match_method = 'llm_identity' and t.reason = 'untraced_caller' then 'medium'
    when c.match_method = 'llm_identity' then 'exact'
    when c.match_method = 'artifact_bytes' then 'high'
    when c.match_method in ('pool_time', 'llm_cost') then 'medium'
    else 'low'
  end as confidence,
  case
    when t.allocated_to = 'rest' and c.known_by is null and not c.is_inside then case when c.scope is null then 'default_scope' else 'explicit_scope' end
    when t.allocated_to = 'rest' then coalesce(t.reason, 'no_run')
    else t.reason
  end as reason,
  case when c.match_method = 'pool_time' then regexp_replace(c.target_key, r'[|]other charges$', '') else c.target_key end as pool_key, t.weight_kind, t.run_end_rule, t.is_scaled, p.ratio_from, p.ratio_to, p.is_last,
  case when p.ratio_from > 0 or not p.is_last then cast(cast(c.list_cost as string) as float64) end as list_float,
  case when p.ratio_from > 0 or not p.is_last then cast(cast(c.contracted_cost as string) as float64) end as contracted_float,
  case when p.ratio_from > 0 or not p.is_last then cast(cast(c.effective_cost as string) as float64) end as effective_float,
  case when p.ratio_from > 0 or not p.is_last then cast(cast(c.billed_cost as string) as float64) end as billed_float,
  1.0 as charge_part, cast(null as float64) as unused_ratio, cast(null as float64) as overhead_ratio,
  c.line_team, c.line_project, c.line_cost_center, c.line_owner
from charge_sums c
join charge_parts p on p.source = c.source and p.charge_id = c.charge_id
join pooled_targets t
  on t.match_method = c.match_method and t.target_key = c.target_key and t.window_start = c.window_start and t.window_end = c.window_end
  and t.target_number = p.target_number
