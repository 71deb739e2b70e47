-- The runs of one start month: the runs in MLflow, and runs that MLflow no longer has but the warehouse does.
-- From `fresh_runs`, `fresh_resources`, `previous_runs`.
-- `now_there` is evaluated twice, because materializing it would need one more copy of the rows.
with now_there as not materialized (
  select * from fresh_runs where start_month = $month
),
machines as (
  select workspace, run_id, list(resource_id order by resource_id) as resource_ids
  from fresh_resources where start_month = $month and not is_single and used_ordinal = 0 group by all
),
there as (
  select {columns_there}
  from now_there r
  left join machines m using (workspace, run_id)
  left join fresh_use u using (run_id)
  left join fresh_gaps g using (run_id)
  -- An end time that was in the future when it was read stays rejected, even when that time has passed.
  left join (select workspace, run_id, end_time, future_end_time from previous_runs where future_end_time is not null) k
    on k.workspace = r.workspace and k.run_id = r.run_id and k.future_end_time = r.end_time and $keeps_ends
),
gone as (
  select {columns_gone}
  from (
    select *, {clean} from previous_runs p
    where not exists (select 1 from now_there n where n.workspace = p.workspace and n.run_id = p.run_id)
  ) r
)
select {columns} from (select * from there union all by name select * from gone) order by run_id, workspace
