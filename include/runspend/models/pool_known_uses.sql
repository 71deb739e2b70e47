-- one row per pool, window and run that states a machine of the pool: its time on these machines. What the pool has beside machines (disks, addresses,
-- traffic) served them as well
with windows as (
  select distinct
    resource_key, charge_period_start, charge_period_end, pool_key,
    charge_period_end <= timestamp_add(timestamp_trunc(charge_period_start, hour), interval 1 hour) as is_in_an_hour
  from ledger_lines
  where is_offered and pool_key is not null
)
select
  w.pool_key as target_key,
  case when w.is_in_an_hour then timestamp_trunc(w.charge_period_start, hour) else w.charge_period_start end as window_start,
  case when w.is_in_an_hour then timestamp_add(timestamp_trunc(w.charge_period_start, hour), interval 1 hour) else w.charge_period_end end as window_end,
  t.tracking_server, t.workspace, t.run_id, min(t.run_end_rule) as run_end_rule, min(t.weight_kind) as weight_kind, logical_or(t.is_ambiguous) as is_ambiguous,
  cast(sum(t.nanoseconds) as int64) as nanoseconds
from slot_targets t
join windows w on w.resource_key = t.resource_key and w.charge_period_start = t.charge_period_start and w.charge_period_end = t.charge_period_end
where t.allocated_to = 'run'
group by
  w.pool_key, case when w.is_in_an_hour then timestamp_trunc(w.charge_period_start, hour) else w.charge_period_start end,
  case when w.is_in_an_hour then timestamp_add(timestamp_trunc(w.charge_period_start, hour), interval 1 hour) else w.charge_period_end end,
  t.tracking_server, t.workspace, t.run_id
