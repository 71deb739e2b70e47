-- one row per run and day: the list price of the lines that it has as their caller, which its traces of that day explain
with costs as (
  select n.target_key, n.window_start, n.window_end, l.billing_currency, sum(coalesce(l.list_cost, l.effective_cost)) as list_cost
  from identity_lines n
  join rest_lines l on l.source = n.source and l.line_id = n.line_id
  where l.charge_category = 'Usage'
  group by n.target_key, n.window_start, n.window_end, l.billing_currency
),
products as (
  select
    t.tracking_server, t.workspace, t.run_id, date(c.window_start) as day, c.billing_currency = 'USD' as is_comparable, c.list_cost, t.ratio_from, t.is_last,
    cast(cast(c.list_cost as string) as float64) * t.ratio_from as list_before, cast(cast(c.list_cost as string) as float64) * t.ratio_to as list_upto
  from costs c
  join identity_targets t on t.target_key = c.target_key and t.window_start = c.window_start and t.window_end = c.window_end
  where t.allocated_to = 'run'
)
select
  -- Token costs are in US dollars.
  tracking_server, workspace, run_id, day, logical_and(is_comparable) as is_comparable,
  sum(case when is_last then list_cost else exact_money(list_upto) end - case when ratio_from = 0 then bignumeric '0' else exact_money(list_before) end) as list_cost
from products
group by tracking_server, workspace, run_id, day
