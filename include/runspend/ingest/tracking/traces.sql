-- The LLM cost per day, experiment, run, user, model and provider, from `raw_traces`, `raw_spans` and `fresh_experiments`.
-- A span below a span with a cost is part of that cost, as in MLflow's own sum. If no span of a trace has a cost, the cost of the trace
-- itself counts, without a model.
-- A cost is converted to a decimal by its shortest decimal text. So the API, the database and every order of rows give the same digits.
insert into fresh_trace_costs by name
with recursive priced as (
  select s.trace_id, s.span_id, s.model, s.provider, s.cost, s.cost >= 0 as is_covered, s.cost >= 0 as counts
  from raw_spans s
  where not exists (select 1 from raw_spans p where p.trace_id = s.trace_id and p.span_id = s.parent_id)
  union all
  select s.trace_id, s.span_id, s.model, s.provider, s.cost, p.is_covered or s.cost >= 0, s.cost >= 0 and not p.is_covered
  from priced p join raw_spans s on s.trace_id = p.trace_id and s.parent_id = p.span_id
),
by_model as (
  select trace_id, model, provider, sum(money(cost)) as cost from priced where counts group by trace_id, model, provider
),
-- MLflow counts tokens per trace, so all tokens of a trace are assigned to the model with the highest cost in it.
parts as (
  select t.trace_id, redacted(coalesce(m.model, '')) as model, redacted(coalesce(m.provider, '')) as provider, coalesce(m.cost, money(t.total_cost)) as cost,
    row_number() over (partition by t.trace_id order by m.cost desc, m.model, m.provider) = 1 as is_dearest
  from raw_traces t left join by_model m on m.trace_id = t.trace_id
)
select
  cast(date_trunc('month', k.start_utc) as date) as month,
  $server as tracking_server,
  k.workspace,
  cast(k.start_utc as date) as charge_date,
  k.experiment_id,
  k.source_run as run_id,
  k.user_name,
  p.model,
  p.provider,
  'mlflow' as price_source,
  count(*) as traces,
  cast(sum(case when p.is_dearest and k.input_tokens >= 0 then k.input_tokens end) as bigint) as input_tokens,
  cast(sum(case when p.is_dearest and k.output_tokens >= 0 then k.output_tokens end) as bigint) as output_tokens,
  cast(sum(p.cost) as decimal(38, 22)) as list_cost,
  'USD' as currency,
  $load_id as load_id
from known_traces k join parts p on p.trace_id = k.trace_id
where p.cost is not null
group by all
