-- One row per experiment and currency: the cost per run, per finished run and per GPU hour.
with summed as (
  select
    tracking_server,
    workspace,
    experiment_id,
    max(experiment_name) as experiment_name,
    billing_currency,
    count(*) as run_count,
    sum(case when run_status = 'FINISHED' then 1 else 0 end) as finished_run_count,
    sum(effective_cost) as effective_cost,
    sum(case when run_status in ('FAILED', 'KILLED') then effective_cost else 0 end) as failed_cost,
    sum(case when gpu_seconds > 0 then compute_cost else 0 end) as gpu_run_compute_cost,
    sum(gpu_seconds) / 3600 as gpu_hours
  from {{ source("runspend", "run_costs") }}
  where billing_currency <> ''
  group by tracking_server, workspace, experiment_id, billing_currency
)

select
  *,
  cast(effective_cost as {{ dbt.type_float() }}) / run_count as cost_per_run,
  cast(effective_cost as {{ dbt.type_float() }}) / nullif(finished_run_count, 0) as cost_per_finished_run,
  cast(gpu_run_compute_cost as {{ dbt.type_float() }}) / nullif(gpu_hours, 0) as compute_cost_per_gpu_hour
from summed
