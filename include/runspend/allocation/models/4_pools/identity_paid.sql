-- one row per run, day and cloud: the list price of the run's tokens that are explained by the lines that it gets as their caller.
-- Null: the lines are in several currencies or have no price. Then they explain all tokens of the run on that day.
with costs as (
  select
    n.target_key, n.window_start, n.window_end, l.llm_cloud, sum(coalesce(l.list_cost, l.effective_cost)) as list_cost,
    coalesce(sum(l.list_cost), bignumeric '0') as priced_cost
  from identity_lines n
  join rest_lines l on l.source = n.source and l.line_id = n.line_id
  where l.charge_category = 'Usage'
  group by n.target_key, n.window_start, n.window_end, l.llm_cloud
),
products as (
  select
    t.tracking_server, t.workspace, t.run_id, date(c.window_start) as day, c.llm_cloud, c.list_cost, t.ratio_from, t.is_last,
    cast(cast(c.list_cost as string) as float64) * t.ratio_from as list_before, cast(cast(c.list_cost as string) as float64) * t.ratio_to as list_upto
  from costs c
  join identity_targets t on t.target_key = c.target_key and t.window_start = c.window_start and t.window_end = c.window_end
  where t.allocated_to = 'run'
),
paid as (
  select
    tracking_server, workspace, run_id, day, llm_cloud,
    sum(case when is_last then list_cost else exact_money(list_upto) end - case when ratio_from = 0 then bignumeric '0' else exact_money(list_before) end) as list_cost
  from products
  group by tracking_server, workspace, run_id, day, llm_cloud
),
traced as (
  select distinct i.target_key, i.window_start, i.window_end, t.llm_cloud
  from identity_targets i
  join llm_tokens t on t.tracking_server = i.tracking_server and t.workspace = i.workspace and t.run_id = i.run_id and t.day = date(i.window_start)
  where i.allocated_to = 'run'
),
untraced as (
  -- Lines of callers without traces, such as people. They contain no tokens of traces.
  select date(c.window_start) as day, c.llm_cloud, sum(c.priced_cost) as list_cost
  from costs c
  left join traced t on t.target_key = c.target_key and t.window_start = c.window_start and t.window_end = c.window_end and t.llm_cloud = c.llm_cloud
  where t.target_key is null
  group by day, c.llm_cloud
),
cells as (
  select c.day, c.llm_cloud, c.first_currency, c.last_currency, c.list_cost - coalesce(u.list_cost, bignumeric '0') as list_cost
  from llm_cells c
  left join untraced u on u.day = c.day and u.llm_cloud = c.llm_cloud
),
scales as (
  -- Prices of traces and of the bill usually differ. The scale is the price of tokens per unit of cost on the lines of the day and cloud.
  select
    c.day, c.llm_cloud,
    case
      when c.first_currency = c.last_currency and c.list_cost > 0
        then cast(cast(sum(t.list_cost) as string) as float64) / cast(cast(c.list_cost as string) as float64)
    end as scale
  from cells c
  join llm_tokens t on t.day = c.day and t.llm_cloud = c.llm_cloud
  group by c.day, c.llm_cloud, c.first_currency, c.last_currency, c.list_cost
)
select
  p.tracking_server, p.workspace, p.run_id, p.day, p.llm_cloud, exact_money(cast(cast(p.list_cost as string) as float64) * s.scale) as list_cost
from paid p
join scales s on s.day = p.day and s.llm_cloud = p.llm_cloud
