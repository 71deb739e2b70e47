-- one row per attachment key, charge period of its machines and target: the machine time that the target used.
-- Idle time that is offered to a pool or an instance type keeps the name of its machine: `attached_targets` gives it to the runs that use it.
with machines as (
  select distinct machine_number, resource_key from run_intervals
),
jobs as (
  -- If the job rule allocates a charge period, it belongs to the job's runs, even if another run states the machine.
  select resource_key, charge_period_start, charge_period_end
  from ledger_lines
  where allocated_by in ('job_id', 'resource_id') and resource_key is not null
  group by resource_key, charge_period_start, charge_period_end
  having countif(allocated_by = 'resource_id') = 0
),
direct as (
  -- Charge periods whose machine time the rule resource_id allocates. In all others, a tag takes precedence over statements of runs.
  select distinct resource_key, charge_period_start, charge_period_end
  from ledger_lines
  where allocated_by = 'resource_id' and charge_category = 'Usage'
),
idle as (
  -- Charge periods in which no run was active.
  select m.resource_key, s.charge_period_start, s.charge_period_end, s.billed_nanoseconds
  from machine_slots s
  join machines m on m.machine_number = s.machine_number
  left join (select distinct resource_key, charge_period_start, charge_period_end from slot_targets) t
    on t.resource_key = m.resource_key and t.charge_period_start = s.charge_period_start and t.charge_period_end = s.charge_period_end
  where t.resource_key is null
),
tagged_skus as (
  -- Charges with the id of a run. As in machine_slots, the time of a machine is that of its longest SKU.
  select
    l.resource_key, l.charge_period_start, l.charge_period_end, g.tracking_server, g.workspace, g.run_id,
    nullif(greatest(sum(case when l.charge_class is null then l.billed_nanoseconds end), 0), 0) as nanoseconds
  from ledger_lines l
  join tagged_runs g on g.run_tag = l.run_tag
  left join direct d on d.resource_key = l.resource_key and d.charge_period_start = l.charge_period_start and d.charge_period_end = l.charge_period_end
  where l.line_kind = 'timed' and l.cost_kind = 'compute' and l.charge_category = 'Usage' and d.resource_key is null
    and (l.instance_type is not null or l.billed_nanoseconds <> 0)
  group by l.resource_key, l.charge_period_start, l.charge_period_end, g.tracking_server, g.workspace, g.run_id, l.source, coalesce(l.sku_id, '')
),
tagged as (
  select
    resource_key, charge_period_start, charge_period_end, tracking_server, workspace, run_id,
    cast(coalesce(max(nanoseconds), timestamp_diff(charge_period_end, charge_period_start, microsecond) * 1000) as int64) as nanoseconds
  from tagged_skus
  group by resource_key, charge_period_start, charge_period_end, tracking_server, workspace, run_id
),
tagged_periods as (
  select distinct resource_key, charge_period_start, charge_period_end from tagged
),
uses as (
  select
    resource_key, charge_period_start, charge_period_end, allocated_to, tracking_server, workspace, run_id, run_end_rule, weight_kind, is_scaled, is_ambiguous, nanoseconds,
    false as is_tagged
  from slot_targets
  union all
  select
    resource_key, charge_period_start, charge_period_end, 'idle', cast(null as string), cast(null as string), cast(null as string),
    cast(null as string), cast(null as string), false, false, billed_nanoseconds, false
  from idle
  union all
  select
    resource_key, charge_period_start, charge_period_end, 'run', tracking_server, workspace, run_id,
    cast(null as string), cast(null as string), false, false, nanoseconds, true
  from tagged
),
offered as (
  select distinct resource_key from ledger_lines where is_offered
)
select
  k.target_key, u.charge_period_start, u.charge_period_end, u.allocated_to, u.tracking_server, u.workspace, u.run_id,
  case when u.allocated_to = 'idle' then o.resource_key end as resource_key,
  min(u.run_end_rule) as run_end_rule, min(u.weight_kind) as weight_kind, logical_or(u.is_scaled) as is_scaled, logical_or(u.is_ambiguous) as is_ambiguous,
  cast(sum(u.nanoseconds) as int64) as nanoseconds
from uses u
join attach_keys k on k.resource_key = u.resource_key
left join jobs j on j.resource_key = u.resource_key and j.charge_period_start = u.charge_period_start and j.charge_period_end = u.charge_period_end
left join offered o on o.resource_key = u.resource_key
left join tagged_periods p on p.resource_key = u.resource_key and p.charge_period_start = u.charge_period_start and p.charge_period_end = u.charge_period_end
where j.resource_key is null and (u.is_tagged or p.resource_key is null)
group by
  k.target_key, u.charge_period_start, u.charge_period_end, u.allocated_to, u.tracking_server, u.workspace, u.run_id,
  case when u.allocated_to = 'idle' then o.resource_key end
