-- one row per key, charge period of the lines attached by it and target: the split of its machines in that period, idle included
with windows as (
  select distinct target_key, window_start, window_end
  from attached_candidates
),
parts as (
  select target_key, charge_period_start, charge_period_end, allocated_to, tracking_server, workspace, run_id, run_end_rule, weight_kind, is_scaled, is_ambiguous, nanoseconds
  from attached_parts
  union all
  select target_key, charge_period_start, charge_period_end, allocated_to, tracking_server, workspace, run_id, run_end_rule, weight_kind, is_scaled, is_ambiguous, nanoseconds
  from job_attached_parts
),
window_days as (
  select target_key, window_start, window_end, day
  from windows
  cross join unnest(generate_date_array(date(window_start), date(timestamp_sub(window_end, interval 1 microsecond)))) as day
),
part_days as (
  select
    target_key, charge_period_start, charge_period_end, allocated_to, tracking_server, workspace, run_id, run_end_rule, weight_kind, is_scaled, is_ambiguous, nanoseconds, day
  from parts
  cross join unnest(generate_date_array(date(charge_period_start), date(timestamp_sub(charge_period_end, interval 1 microsecond)))) as day
  where nanoseconds > 0
),
met as (
  -- Equal hours join directly. Longer charge periods on either side join by day.
  select w.target_key, w.window_start, w.window_end, p.allocated_to, p.tracking_server, p.workspace, p.run_id, p.run_end_rule, p.weight_kind, p.is_scaled, p.is_ambiguous, p.nanoseconds
  from windows w
  join parts p on p.target_key = w.target_key and p.charge_period_start = w.window_start and p.charge_period_end = w.window_end
  where p.nanoseconds > 0
  union all
  select w.target_key, w.window_start, w.window_end, p.allocated_to, p.tracking_server, p.workspace, p.run_id, p.run_end_rule, p.weight_kind, p.is_scaled, p.is_ambiguous, p.nanoseconds
  from window_days w
  join part_days p on p.target_key = w.target_key and p.day = w.day
  where p.charge_period_start < w.window_end and p.charge_period_end > w.window_start
    and w.day = date(greatest(p.charge_period_start, w.window_start))
    and (p.charge_period_start <> w.window_start or p.charge_period_end <> w.window_end)
),
lone as (
  -- Charges of a job's machine outside of the job's own charge periods go to the runs of that life of the job.
  select w.target_key, w.window_start, w.window_end
  from windows w
  left join (select distinct target_key, window_start, window_end from met) m
    on m.target_key = w.target_key and m.window_start = w.window_start and m.window_end = w.window_end
  where m.target_key is null and starts_with(w.target_key, 'machine|')
),
all_parts as (
  select target_key, window_start, window_end, allocated_to, tracking_server, workspace, run_id, run_end_rule, weight_kind, is_scaled, is_ambiguous, nanoseconds
  from met
  union all
  select w.target_key, w.window_start, w.window_end, 'run', p.tracking_server, p.workspace, p.run_id, p.run_end_rule, p.weight_kind, false, p.is_ambiguous, p.nanoseconds
  from lone w
  join job_tails p on p.target_key = w.target_key
  where p.billed_from < timestamp_add(w.window_end, interval 24 hour) and p.billed_until > timestamp_sub(w.window_start, interval 24 hour)
),
targets as (
  select
    target_key, window_start, window_end, allocated_to, tracking_server, workspace, run_id,
    min(run_end_rule) as run_end_rule, min(weight_kind) as weight_kind, logical_or(is_scaled) as is_scaled, logical_or(is_ambiguous) as is_ambiguous, cast(sum(nanoseconds) as int64) as nanoseconds
  from all_parts
  group by target_key, window_start, window_end, allocated_to, tracking_server, workspace, run_id
),
running as (
  select
    target_key, window_start, window_end, allocated_to, tracking_server, workspace, run_id, run_end_rule, weight_kind, is_scaled, is_ambiguous, nanoseconds,
    cast(sum(nanoseconds) over (w rows between unbounded preceding and current row) as int64) as upto,
    cast(sum(nanoseconds) over (partition by target_key, window_start, window_end) as int64) as total
  from targets
  window w as (
    partition by target_key, window_start, window_end
    order by case allocated_to when 'run' then 0 else 1 end, tracking_server, workspace, run_id)
)
select
  'attached' as match_method, target_key, window_start, window_end, allocated_to, tracking_server, workspace, run_id, cast(null as string) as owner_id,
  case when allocated_to = 'idle' then 'no_run' when is_ambiguous then 'ambiguous_name' end as reason,
  weight_kind, run_end_rule, is_scaled, cast(null as int64) as nanoseconds,
  (upto - nanoseconds) / total as ratio_from, upto / total as ratio_to, upto = total as is_last
from running
