-- one row per day, cloud and run (or none) whose traces used paid tokens that a line of that cloud may bill: their list price.
-- If several clouds may bill the same tokens, they are divided by how much more each cloud bills than the tokens that only it can bill.
-- Tokens are matched only by day and cloud. A trace's price already includes its model, and model names on bills have no standard.
with named as (
  select
    charge_date as day, nullif(run_id, '') as run_id, tracking_server, workspace, lower(coalesce(provider, '')) as provider_name, lower(coalesce(model, '')) as model_name,
    list_cost, coalesce(price_source, 'mlflow') <> 'mlflow' as is_estimated
  from trace_costs
  where month >= date(@window_start) and month < date(@window_end) and list_cost > 0
),
clouds as (
  select
    day, run_id, case when run_id is not null then tracking_server end as tracking_server, case when run_id is not null then workspace end as workspace,
    trace_cloud(provider_name, model_name) as trace_cloud, list_cost, is_estimated
  from named
),
traces as (
  select day, run_id, tracking_server, workspace, trace_cloud, sum(list_cost) as list_cost, logical_or(is_estimated) as is_estimated
  from clouds
  group by day, run_id, tracking_server, workspace, trace_cloud
),
sums as (
  select day, trace_cloud, sum(list_cost) as list_cost
  from traces
  group by day, trace_cloud
),
fits as (
  select
    c.day, c.llm_cloud, s.trace_cloud, s.list_cost, count(*) over (partition by s.day, s.trace_cloud) as cloud_count,
    -- Prices in different currencies are not compared.
    case when min(c.first_currency) over (partition by c.day) = max(c.last_currency) over (partition by c.day) then greatest(c.list_cost, bignumeric '0') else bignumeric '1' end as billed
  from llm_cells c
  join sums s on s.day = c.day and is_on_cloud(s.trace_cloud, c.llm_cloud)
),
cells as (
  select
    day, llm_cloud, cast(cast(max(billed) as string) as float64) as billed_float,
    cast(cast(coalesce(sum(case when cloud_count = 1 then list_cost end), bignumeric '0') as string) as float64) as known_float
  from fits
  group by day, llm_cloud
),
days as (
  select b.day, nullif(cast(cast(b.billed as string) as float64), 0) as billed_float, cast(cast(t.list_cost as string) as float64) as tokens_float
  from (select day, sum(billed) as billed from (select distinct day, llm_cloud, billed from fits) group by day) b
  join (select day, sum(list_cost) as list_cost from (select distinct day, trace_cloud, list_cost from fits) group by day) t on t.day = b.day
),
parts as (
  -- billed_part: the cloud's part of what is billed on the day. open_part: this part minus the part of tokens that only this cloud can bill.
  select c.day, c.llm_cloud, coalesce(c.billed_float / d.billed_float, 0) as billed_part, coalesce(c.billed_float / d.billed_float, 0) - c.known_float / d.tokens_float as open_part
  from cells c
  join days d on d.day = c.day
),
units as (
  -- Whole numbers. A remainder of a billionth is only rounding.
  select
    f.day, f.trace_cloud, f.llm_cloud, f.cloud_count, cast(round(p.billed_part * 1e12) as int64) as billed_units,
    case when p.open_part > 0.000000001 then cast(round(p.open_part * 1e12) as int64) else 0 end as open_units
  from fits f
  join parts p on p.day = f.day and p.llm_cloud = f.llm_cloud
),
weights as (
  select
    day, trace_cloud, llm_cloud, cloud_count,
    case
      when sum(open_units) over (partition by day, trace_cloud) > 0 then open_units
      when sum(billed_units) over (partition by day, trace_cloud) > 0 then billed_units
      else 1
    end as weight
  from units
),
shares as (
  select day, trace_cloud, llm_cloud, cloud_count, weight / sum(weight) over (partition by day, trace_cloud) as share
  from weights
),
tokens as (
  select
    t.day, s.llm_cloud, t.tracking_server, t.workspace, t.run_id, t.is_estimated,
    case when s.cloud_count = 1 then t.list_cost else exact_money(cast(cast(t.list_cost as string) as float64) * s.share) end as list_cost
  from traces t
  join shares s on s.day = t.day and s.trace_cloud = t.trace_cloud
  where s.share > 0
)
select day, llm_cloud, tracking_server, workspace, run_id, logical_or(is_estimated) as is_estimated, sum(list_cost) as list_cost
from tokens
where list_cost > 0
group by day, llm_cloud, tracking_server, workspace, run_id
