-- The power of the runs of one start month: rows read now, earlier rows that are still valid, and rows of runs that MLflow no longer has
-- (they used power too). From `fresh_power`, `known_power`, `previous_power`.
select {columns} from (
  select {columns} from fresh_power where start_month = $month
  union all
  select {columns} from known_power where start_month = $month
  union all
  select {columns} from previous_power p
  where not exists (select 1 from fresh_runs n where n.start_month = $month and n.workspace = p.workspace and n.run_id = p.run_id)
)
order by resource_id, hour_start, run_id, metric
