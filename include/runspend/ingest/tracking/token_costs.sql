-- The LLM cost at list price per day, experiment, run, user, model and provider. From `unpriced_calls` and their prices in `call_prices`.
insert into fresh_trace_costs by name
select
  cast(date_trunc('month', c.day) as date) as month,
  $server as tracking_server,
  k.workspace,
  c.day as charge_date,
  k.experiment_id,
  k.source_run as run_id,
  k.user_name,
  redacted(c.model) as model,
  redacted(p.priced_by) as provider,
  $price_source as price_source,
  count(distinct c.trace_id) as traces,
  cast(sum(p.input_tokens) as bigint) as input_tokens,
  cast(sum(p.output_tokens) as bigint) as output_tokens,
  cast(sum(p.cost) as decimal(38, 22)) as list_cost,
  'USD' as currency,
  $load_id as load_id
from unpriced_calls c
join call_prices p on p.model = c.model and p.provider = c.provider and p.day = c.day and p.usage = c.usage
join known_traces k on k.trace_id = c.trace_id
where p.cost is not null
group by all
