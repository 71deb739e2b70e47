-- one row per line of a language model that states its caller: its charge period, and whether the bill or a `dimensions` file names the
-- owner of the caller
select
  l.source, l.line_id, b.principal_key as target_key, l.charge_period_start as window_start, l.charge_period_end as window_end, l.llm_cloud,
  coalesce(l.line_team, l.line_project, l.line_cost_center, l.line_owner) is not null as has_owner
from rest_lines l
join billing_lines b on b.source = l.source and b.line_id = l.line_id
where b.billing_period = @period and b.principal_key is not null
  and l.cost_kind = 'llm' and l.line_kind <> 'fee' and coalesce(l.scope, '') <> 'exclude' and l.charge_period_end > l.charge_period_start
