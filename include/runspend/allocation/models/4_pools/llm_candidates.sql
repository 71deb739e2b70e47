-- one row per line of an LLM provider: its charge period, or its day if it is shorter, because traces are counted by day
select
  source, line_id, llm_cloud, concat('llm ', llm_cloud) as target_key,
  case when charge_period_end <= timestamp_add(timestamp_trunc(charge_period_start, day), interval 24 hour) then timestamp_trunc(charge_period_start, day) else charge_period_start end as window_start,
  case
    when charge_period_end <= timestamp_add(timestamp_trunc(charge_period_start, day), interval 24 hour) then timestamp_add(timestamp_trunc(charge_period_start, day), interval 24 hour)
    else charge_period_end
  end as window_end,
  billing_currency, case when charge_category = 'Usage' then coalesce(list_cost, effective_cost) end as list_cost
from rest_lines
where cost_kind = 'llm' and line_kind <> 'fee' and coalesce(scope, '') <> 'exclude' and charge_period_end > charge_period_start
