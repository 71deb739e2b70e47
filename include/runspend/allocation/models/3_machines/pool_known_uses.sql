-- one row per pool, charge period and run that uses machines of the pool by its tag, its job or its own statement: its time on these machines.
-- The pool's other resources (disks, addresses, traffic) served these runs too.
-- A charge period of more than an hour has two kinds of rows: the whole period, and its single hours (is_part) for resources that are billed
-- by the hour.
with skus as (
  -- Licenses and discounts add no time. The two lines of a half-covered hour do.
  select
    resource_key, charge_period_start, charge_period_end, pool_key, allocated_by, run_tag, job_key, source, sku_id,
    cast(nullif(greatest(sum(billed_nanoseconds), 0), 0) as int64) as billed_nanoseconds
  from ledger_lines
  where pool_key is not null and line_kind = 'timed' and charge_category = 'Usage' and charge_class is null
    and (is_offered or (allocated_by in ('run_tag', 'job_id') and cost_kind = 'compute' and (billed_nanoseconds <> 0 or instance_type is not null)))
  group by resource_key, charge_period_start, charge_period_end, pool_key, allocated_by, run_tag, job_key, source, sku_id
),
windows as (
  select
    resource_key, charge_period_start, charge_period_end, pool_key, allocated_by, case when allocated_by = 'run_tag' then run_tag end as run_tag,
    case when allocated_by = 'job_id' then job_key end as job_key,
    charge_period_end <= timestamp_add(timestamp_trunc(charge_period_start, hour), interval 1 hour) as is_in_an_hour,
    coalesce(max(billed_nanoseconds), timestamp_diff(charge_period_end, charge_period_start, microsecond) * 1000) as billed_nanoseconds
  from skus
  group by
    resource_key, charge_period_start, charge_period_end, pool_key, allocated_by, case when allocated_by = 'run_tag' then run_tag end,
    case when allocated_by = 'job_id' then job_key end
),
uses as (
  select
    w.resource_key, w.pool_key, w.allocated_by, w.charge_period_start, w.charge_period_end, w.is_in_an_hour, t.tracking_server, t.workspace, t.run_id, t.run_end_rule, t.weight_kind, t.is_ambiguous, t.nanoseconds,
    w.charge_period_start as used_from, w.charge_period_end as used_to
  from slot_targets t
  join windows w on w.allocated_by = 'resource_id' and w.resource_key = t.resource_key and w.charge_period_start = t.charge_period_start and w.charge_period_end = t.charge_period_end
  where t.allocated_to = 'run'
  union all
  select
    w.resource_key, w.pool_key, w.allocated_by, w.charge_period_start, w.charge_period_end, w.is_in_an_hour, g.tracking_server, g.workspace, g.run_id, cast(null as string), cast(null as string), false,
    w.billed_nanoseconds,
    case when g.start_time < w.charge_period_end then greatest(g.start_time, w.charge_period_start) else w.charge_period_start end,
    case when g.end_time > w.charge_period_start then least(g.end_time, w.charge_period_end) else w.charge_period_end end
  from windows w
  join tagged_runs g on g.run_tag = w.run_tag
  where w.allocated_by = 'run_tag'
  union all
  select
    w.resource_key, w.pool_key, w.allocated_by, w.charge_period_start, w.charge_period_end, w.is_in_an_hour, j.tracking_server, j.workspace, j.run_id, j.run_end_rule, j.weight_kind, j.is_ambiguous,
    cast(round((j.ratio_to - j.ratio_from) * w.billed_nanoseconds) as int64), w.charge_period_start, w.charge_period_end
  from windows w
  join job_targets j on j.job_key = w.job_key and j.charge_period_start = w.charge_period_start and j.charge_period_end = w.charge_period_end
  where w.allocated_by = 'job_id'
),
ranges as (
  -- The time in which the run had the machine, in charge periods of more than an hour.
  select
    resource_key, pool_key, charge_period_start, charge_period_end, tracking_server, workspace, run_id, run_end_rule, weight_kind, is_ambiguous, nanoseconds,
    used_from, used_to, 1 as weight
  from uses
  where allocated_by <> 'resource_id' and not is_in_an_hour
  union all
  select
    u.resource_key, u.pool_key, u.charge_period_start, u.charge_period_end, u.tracking_server, u.workspace, u.run_id, u.run_end_rule, u.weight_kind, u.is_ambiguous, u.nanoseconds,
    s.used_from, s.used_to, s.weight
  from uses u
  join (select distinct machine_number, resource_key, run_number, tracking_server, workspace, run_id from run_intervals) i
    on i.resource_key = u.resource_key and i.tracking_server = u.tracking_server and i.workspace = u.workspace and i.run_id = u.run_id
  join slot_uses s
    on s.machine_number = i.machine_number and s.run_number = i.run_number and s.charge_period_start = u.charge_period_start and s.charge_period_end = u.charge_period_end
  where u.allocated_by = 'resource_id' and not u.is_in_an_hour
),
hours as (
  select
    resource_key, pool_key, charge_period_start, charge_period_end, tracking_server, workspace, run_id, run_end_rule, weight_kind, is_ambiguous, nanoseconds, hour_number,
    weight * timestamp_diff(
      least(used_to, start_of_hour(hour_number + 1)), greatest(used_from, start_of_hour(hour_number)), microsecond) as part
  from ranges
  cross join unnest(hours_between(used_from, used_to)) as hour_number
),
hour_parts as (
  select
    pool_key, tracking_server, workspace, run_id, run_end_rule, weight_kind, is_ambiguous, hour_number, nanoseconds, part,
    sum(part) over (partition by resource_key, pool_key, charge_period_start, charge_period_end, tracking_server, workspace, run_id) as parts
  from hours
),
window_uses as (
  select
    pool_key, tracking_server, workspace, run_id, run_end_rule, weight_kind, is_ambiguous, nanoseconds, false as is_part,
    case when is_in_an_hour then timestamp_trunc(charge_period_start, hour) else charge_period_start end as window_start,
    case when is_in_an_hour then timestamp_add(timestamp_trunc(charge_period_start, hour), interval 1 hour) else charge_period_end end as window_end
  from uses
  union all
  select
    pool_key, tracking_server, workspace, run_id, run_end_rule, weight_kind, is_ambiguous, cast(round(nanoseconds * (part / parts)) as int64), true,
    start_of_hour(hour_number), start_of_hour(hour_number + 1)
  from hour_parts
  where part > 0
)
select
  pool_key as target_key, window_start, window_end, is_part,
  tracking_server, workspace, run_id, min(run_end_rule) as run_end_rule, min(weight_kind) as weight_kind, logical_or(is_ambiguous) as is_ambiguous,
  cast(sum(nanoseconds) as int64) as nanoseconds
from window_uses
group by pool_key, window_start, window_end, is_part, tracking_server, workspace, run_id
