-- one row per line that is priced together with others: its charge.
-- A charge consists of all lines with equal values in every column that analysts query.
with lines as (
  select
    s.match_method, s.target_key, s.window_start, s.window_end, l.source, l.billing_period, l.line_id, l.charge_date, l.charge_period_start, l.charge_period_end,
    l.service_provider_name, l.billing_account_id, l.sub_account_id, l.region_id, l.service_name, l.charge_category, l.resource_id, l.resource_key, l.invoice_id,
    l.cost_kind, l.billing_currency, l.list_cost, l.contracted_cost, l.effective_cost, l.billed_cost, l.scope, l.is_inside,
    cast(null as string) as known_by, 0.0 as line_from, l.line_team, l.line_project, l.line_cost_center, l.line_owner
  from rest_lines l
  join allocated_lines s on s.source = l.source and s.line_id = l.line_id
  union all
  -- Lines of stated machines that runs of the pool or type may get.
  select
    l.match_method, l.target_key, l.window_start, l.window_end, l.source, l.billing_period, l.line_id, l.charge_date, l.charge_period_start, l.charge_period_end,
    l.service_provider_name, l.billing_account_id, l.sub_account_id, l.region_id, l.service_name, l.charge_category, l.resource_id, l.resource_key, l.invoice_id,
    l.cost_kind, l.billing_currency, l.list_cost, l.contracted_cost, l.effective_cost, l.billed_cost, l.scope, l.is_inside,
    'resource_id', l.line_from, l.line_team, l.line_project, l.line_cost_center, l.line_owner
  from offered_lines l
  join offered_windows o on o.match_method = l.match_method and o.target_key = l.target_key and o.window_start = l.window_start and o.window_end = l.window_end
  where l.block_number <= o.last_block
)
select
  l.source, l.billing_period, l.line_id,
  -- A string is written as '=' and the string with every '|' doubled; null is written as '-'. Different keys therefore never give the same id.
  concat(
    l.match_method, '|', replace(l.target_key, '|', '||'), '|', cast(unix_micros(l.window_start) as string), '|', cast(unix_micros(l.window_end) as string), '|',
    coalesce(concat('=', replace(l.service_provider_name, '|', '||')), '-'), '|', coalesce(concat('=', replace(l.billing_account_id, '|', '||')), '-'), '|',
    coalesce(concat('=', replace(l.sub_account_id, '|', '||')), '-'), '|', coalesce(concat('=', replace(l.region_id, '|', '||')), '-'), '|',
    coalesce(concat('=', replace(l.service_name, '|', '||')), '-'), '|', '=', replace(l.charge_category, '|', '||'), '|', l.cost_kind, '|',
    coalesce(concat('=', replace(l.invoice_id, '|', '||')), '-'), '|', '=', replace(l.billing_currency, '|', '||'), '|', case when l.is_inside then 'in' else 'out' end, '|',
    coalesce(concat('=', replace(l.line_team, '|', '||')), '-'), '|', coalesce(concat('=', replace(l.line_project, '|', '||')), '-'), '|',
    coalesce(concat('=', replace(l.line_cost_center, '|', '||')), '-'), '|', coalesce(concat('=', replace(l.line_owner, '|', '||')), '-'),
    -- Positive costs, credits and zero costs of machines are separate charges.
    case when l.match_method not in ('pool_time', 'instance_type_time') or l.effective_cost > 0 then '' when l.effective_cost < 0 then '|-' else '|0' end,
    -- The rest of a stated machine is a separate charge: its unused part is idle time of that machine.
    coalesce(concat('|', l.known_by, '|=', replace(l.resource_key, '|', '||')), ''),
    -- If lines are out of scope, the part of the charge that no run gets has the reason of its lines.
    case when l.scope = 'exclude' then '|exclude' else '' end) as charge_id,
  l.match_method, l.target_key, l.window_start, l.window_end,
  case when l.match_method = 'artifact_bytes' then l.billing_period else l.charge_date end as charge_date,
  l.charge_period_start, l.charge_period_end, l.service_provider_name, l.billing_account_id, l.sub_account_id, l.region_id, l.service_name,
  l.charge_category, l.resource_id, l.invoice_id, l.cost_kind, l.billing_currency, l.list_cost, l.contracted_cost, l.effective_cost, l.billed_cost,
  l.scope, l.is_inside, l.known_by, l.line_from, l.line_team, l.line_project, l.line_cost_center, l.line_owner
from lines l
