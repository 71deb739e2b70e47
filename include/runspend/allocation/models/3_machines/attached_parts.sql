-- one row per attachment key, charge period of its machines and target: the machine time that went to the target
with machines as (
  select distinct machine_number, resource_key from run_intervals
),
jobs as (
  -- A charge period that the job rule allocates belongs to the job's runs, no matter which run states the machine.
  select resource_key, charge_period_start, charge_period_end
  from ledger_lines
  where allocated_by in ('job_id', 'resource_id') and resource_key is not null
  group by resource_key, charge_period_start, charge_period_end
  having countif(allocated_by = 'resource_id') = 0
),
idle as (
  -- Charge periods that no run reached.
  select m.resource_key, s.charge_period_start, s.charge_period_end, s.billed_nanoseconds
  from machine_slots s
  join machines m on m.machine_number = s.machine_number
  left join (select distinct resource_key, charge_period_start, charge_period_end from slot_targets) t
    on t.resource_key = m.resource_key and t.charge_period_start = s.charge_period_start and t.charge_period_end = s.charge_period_end
  where t.resource_key is null
),
uses as (
  select
    resource_key, charge_period_start, charge_period_end, allocated_to, tracking_server, workspace, run_id, run_end_rule, weight_kind, is_scaled, is_ambiguous, nanoseconds
  from slot_targets
  union all
  select
    resource_key, charge_period_start, charge_period_end, 'idle', cast(null as string), cast(null as string), cast(null as string),
    cast(null as string), cast(null as string), false, false, billed_nanoseconds
  from idle
)
select
  k.target_key, u.charge_period_start, u.charge_period_end, u.allocated_to, u.tracking_server, u.workspace, u.run_id,
  min(u.run_end_rule) as run_end_rule, min(u.weight_kind) as weight_kind, logical_or(u.is_scaled) as is_scaled, logical_or(u.is_ambiguous) as is_ambiguous,
  cast(sum(u.nanoseconds) as int64) as nanoseconds
from uses u
join attach_keys k on k.resource_key = u.resource_key
left join jobs j on j.resource_key = u.resource_key and j.charge_period_start = u.charge_period_start and j.charge_period_end = u.charge_period_end
where j.resource_key is null
group by k.target_key, u.charge_period_start, u.charge_period_end, u.allocated_to, u.tracking_server, u.workspace, u.run_id
