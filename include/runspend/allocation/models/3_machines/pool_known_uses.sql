-- one row per pool, charge period and run that has machines of the pool by its tag, its job or its own statement:
-- its time on these machines.
-- The pool's other resources (disks, addresses, traffic) served these runs too.
with skus as (
  -- Licenses and discounts add no time. The two parts of a half-covered hour do.
  select
    resource_key, charge_period_start, charge_period_end, pool_key, settled_by, run_tag, job_key, source, sku_id,
    cast(sum(case when billed_nanoseconds > 0 then billed_nanoseconds end) as int64) as billed_nanoseconds
  from ledger_lines
  where pool_key is not null and line_kind = 'timed' and charge_category = 'Usage' and charge_class is null
    and (is_offered or (settled_by in ('run_tag', 'job_id') and cost_kind = 'compute' and (billed_nanoseconds > 0 or instance_type is not null)))
  group by resource_key, charge_period_start, charge_period_end, pool_key, settled_by, run_tag, job_key, source, sku_id
),
windows as (
  select
    resource_key, charge_period_start, charge_period_end, pool_key, settled_by, case when settled_by = 'run_tag' then run_tag end as run_tag,
    case when settled_by = 'job_id' then job_key end as job_key,
    coalesce(max(billed_nanoseconds), timestamp_diff(charge_period_end, charge_period_start, microsecond) * 1000) as billed_nanoseconds
  from skus
  group by
    resource_key, charge_period_start, charge_period_end, pool_key, settled_by, case when settled_by = 'run_tag' then run_tag end,
    case when settled_by = 'job_id' then job_key end
),
uses as (
  select
    w.pool_key, w.charge_period_start, w.charge_period_end, t.tracking_server, t.workspace, t.run_id, t.run_end_rule, t.weight_kind, t.is_ambiguous, t.nanoseconds
  from slot_targets t
  join windows w on w.settled_by = 'resource_id' and w.resource_key = t.resource_key and w.charge_period_start = t.charge_period_start and w.charge_period_end = t.charge_period_end
  where t.allocated_to = 'run'
  union all
  select
    w.pool_key, w.charge_period_start, w.charge_period_end, g.tracking_server, g.workspace, g.run_id, cast(null as string), cast(null as string), false,
    w.billed_nanoseconds
  from windows w
  join tagged_runs g on g.run_tag = w.run_tag
  where w.settled_by = 'run_tag'
  union all
  select
    w.pool_key, w.charge_period_start, w.charge_period_end, j.tracking_server, j.workspace, j.run_id, j.run_end_rule, j.weight_kind, j.is_ambiguous,
    cast(round((j.ratio_to - j.ratio_from) * w.billed_nanoseconds) as int64)
  from windows w
  join job_targets j on j.job_key = w.job_key and j.charge_period_start = w.charge_period_start and j.charge_period_end = w.charge_period_end
  where w.settled_by = 'job_id'
),
placed as (
  select
    pool_key, tracking_server, workspace, run_id, run_end_rule, weight_kind, is_ambiguous, nanoseconds, charge_period_start, charge_period_end,
    charge_period_end <= timestamp_add(timestamp_trunc(charge_period_start, hour), interval 1 hour) as is_in_an_hour
  from uses
)
select
  pool_key as target_key,
  case when is_in_an_hour then timestamp_trunc(charge_period_start, hour) else charge_period_start end as window_start,
  case when is_in_an_hour then timestamp_add(timestamp_trunc(charge_period_start, hour), interval 1 hour) else charge_period_end end as window_end,
  tracking_server, workspace, run_id, min(run_end_rule) as run_end_rule, min(weight_kind) as weight_kind, logical_or(is_ambiguous) as is_ambiguous,
  cast(sum(nanoseconds) as int64) as nanoseconds
from placed
group by
  pool_key, case when is_in_an_hour then timestamp_trunc(charge_period_start, hour) else charge_period_start end,
  case when is_in_an_hour then timestamp_add(timestamp_trunc(charge_period_start, hour), interval 1 hour) else charge_period_end end,
  tracking_server, workspace, run_id
