-- `raw_traces` with the workspaces of their experiments, their users and their start times.
create or replace temp table known_traces as
select
  t.*,
  e.workspace,
  redacted(coalesce(case when not list_contains(getvariable('not_a_person'), trimmed(trace_user)) then trimmed(trace_user) end,
           case when not list_contains(getvariable('not_a_person'), trimmed(mlflow_user)) then trimmed(mlflow_user) end, '')) as user_name,
  coalesce(instant_utc(start_ms), timestamp '1970-01-01') as start_utc
from raw_traces t join fresh_experiments e on e.experiment_id = t.experiment_id
