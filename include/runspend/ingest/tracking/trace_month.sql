-- The LLM costs of one month, from `fresh_trace_costs` and `previous_trace_costs`. Old traces may be deleted in MLflow, but their costs
-- stay. The earlier rows of a day of a run are kept if MLflow shows fewer traces for them now. Traces without a run are compared per
-- experiment.
with previous as (
  -- Files of older versions do not state the price source. Estimated costs are kept only while `token_prices` is set.
  select p.* replace (coalesce(price_source, 'mlflow') as price_source, coalesce(provider, '') as provider) from previous_trace_costs p
  where $is_priced or coalesce(price_source, 'mlflow') = 'mlflow'
),
fresh as (
  select * from fresh_trace_costs where month = $month
),
now_there as (
  select workspace, charge_date, experiment_id, run_id, sum(traces) as traces from fresh group by all
),
was_there as (
  select workspace, charge_date, experiment_id, run_id, sum(traces) as traces from previous group by all
),
kept as (
  select w.workspace, w.charge_date, w.experiment_id, w.run_id
  from was_there w left join now_there n using (workspace, charge_date, experiment_id, run_id)
  where w.traces > coalesce(n.traces, 0)
)
select {columns} from (
  select p.* replace (redacted(user_name) as user_name, redacted(model) as model, redacted(provider) as provider) from previous p semi join kept k using (workspace, charge_date, experiment_id, run_id)
  union all by name
  select f.* from fresh f anti join kept k using (workspace, charge_date, experiment_id, run_id)
)
order by charge_date, experiment_id, run_id, workspace, user_name, model, price_source, provider
