-- one row per line that no rule allocates although a rule could have allocated it. The line is a single target
select
  l.source, l.billing_period, l.line_id as charge_id, l.charge_date, l.charge_period_start, l.charge_period_end, l.service_provider_name,
  l.billing_account_id, l.sub_account_id, l.region_id, l.service_name, l.charge_category, l.resource_id, l.invoice_id, l.cost_kind,
  l.billing_currency, l.list_cost, l.contracted_cost, l.effective_cost, l.billed_cost,
  'unallocated' as allocated_to,
  cast(null as string) as tracking_server, cast(null as string) as workspace, cast(null as string) as run_id, cast(null as string) as owner_id,
  'none' as match_method, cast(null as string) as confidence,
  -- Nothing that was measured in the bucket or storage account shows whose charge this is.
  case when p.is_measured then 'not_measured' when l.line_kind = 'timed' then 'no_run' else 'not_timed' end as reason,
  cast(null as string) as pool_key, cast(null as string) as weight_kind, cast(null as string) as run_end_rule, false as is_scaled,
  0.0 as ratio_from, 1.0 as ratio_to, true as is_last,
  cast(null as float64) as list_float, cast(null as float64) as contracted_float, cast(null as float64) as effective_float, cast(null as float64) as billed_float,
  1.0 as charge_part, cast(null as float64) as unused_ratio, cast(null as float64) as overhead_ratio,
  l.line_team, l.line_project, l.line_cost_center, l.line_owner
from rest_lines l
left join allocated_lines s on s.source = l.source and s.line_id = l.line_id
left join platform_stores p on p.storage_key = l.storage_key
where s.line_id is null and l.is_inside
union all
select
  l.source, l.billing_period, l.line_id as charge_id, l.charge_date, l.charge_period_start, l.charge_period_end, l.service_provider_name,
  l.billing_account_id, l.sub_account_id, l.region_id, l.service_name, l.charge_category, l.resource_id, l.invoice_id, l.cost_kind,
  l.billing_currency, l.list_cost, l.contracted_cost, l.effective_cost, l.billed_cost,
  'idle', cast(null as string), cast(null as string), cast(null as string), cast(null as string),
  'resource_id',
  -- Offered time that a pool or type did not use has the same confidence as the time that it used.
  case when o.match_method is null then 'high' when l.match_method = 'pool_time' then 'medium' else 'low' end,
  'no_run',
  o.target_key, o.weight_kind, cast(null as string), coalesce(o.is_scaled, false),
  0.0, 1.0, true,
  cast(null as float64), cast(null as float64), cast(null as float64), cast(null as float64),
  1.0 - l.line_from, cast(null as float64), cast(null as float64),
  l.line_team, l.line_project, l.line_cost_center, l.line_owner
from offered_lines l
left join offered_windows o on o.match_method = l.match_method and o.target_key = l.target_key and o.window_start = l.window_start and o.window_end = l.window_end
where (o.last_block is null or l.block_number > o.last_block) and l.is_inside
