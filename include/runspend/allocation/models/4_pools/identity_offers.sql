-- one row per principal and charge period that runs claim but may share with runs that state no principal:
-- the part of its lines that goes to these runs. It is 0 if nothing says how much is theirs.
-- Token costs of such runs are compared with the lines of the day that no run claims. What these lines do not explain was called as a claimed principal.
with claimed as (
  -- Token costs are in US dollars.
  select target_key, window_start, window_end, case when countif(rate is null) = 0 then sum(exact_money(rate)) end as tokens
  from identity_claims
  group by target_key, window_start, window_end
),
lines as (
  select
    date(l.charge_period_start) as day, k.target_key, k.window_start, k.window_end, l.billing_currency = 'USD' as is_comparable,
    coalesce(l.list_cost, l.effective_cost) as list_cost
  from billing_lines l
  left join identity_candidates c on c.source = l.source and c.line_id = l.line_id
  left join claimed k on k.target_key = c.target_key and k.window_start = c.window_start and k.window_end = c.window_end
  where l.billing_period = @period and l.service_subcategory = 'Generative AI' and l.charge_category = 'Usage' and coalesce(l.scope, '') <> 'exclude'
),
tokens as (
  select t.charge_date as day, sum(t.list_cost) as list_cost
  from trace_costs t
  left join (select distinct tracking_server, workspace, run_id from identity_uses) u
    on u.tracking_server = t.tracking_server and u.workspace = t.workspace and u.run_id = t.run_id
  where t.month = @period and t.list_cost > 0 and u.run_id is null
  group by t.charge_date
),
others as (
  select day, logical_and(is_comparable) as is_comparable, sum(case when is_comparable then list_cost end) as list_cost
  from lines
  where target_key is null
  group by day
),
unexplained as (
  select t.day, coalesce(o.is_comparable, true) as is_comparable, t.list_cost - coalesce(o.list_cost, bignumeric '0') as list_cost
  from tokens t
  left join others o on o.day = t.day
  where t.list_cost > coalesce(o.list_cost, bignumeric '0')
),
windows as (
  select
    l.day, l.target_key, l.window_start, l.window_end, sum(l.list_cost) as list_cost,
    case when logical_and(l.is_comparable and u.is_comparable) then sum(l.list_cost) - max(k.tokens) end as untraced_cost
  from lines l
  join claimed k on k.target_key = l.target_key and k.window_start = l.window_start and k.window_end = l.window_end
  join unexplained u on u.day = l.day
  group by l.day, l.target_key, l.window_start, l.window_end
),
floats as (
  select
    w.target_key, w.window_start, w.window_end,
    cast(cast(w.list_cost as string) as float64) as list_float, cast(cast(w.untraced_cost as string) as float64) as untraced_float,
    cast(cast(sum(case when w.untraced_cost > 0 then w.untraced_cost end) over (partition by w.day) as string) as float64) as day_float,
    cast(cast(u.list_cost as string) as float64) as unexplained_float
  from windows w
  join unexplained u on u.day = w.day
  where w.list_cost > 0
)
select
  target_key, window_start, window_end,
  case when untraced_float is null then 0.0 else least(1.0, unexplained_float / day_float) * (untraced_float / list_float) end as offered
from floats
-- A billionth is what rounding leaves.
where untraced_float is null or untraced_float > list_float * 0.000000001
