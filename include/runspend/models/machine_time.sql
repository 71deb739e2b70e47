-- one row per run, charge date and bill: its own share of its machines' time
select
  s.source, t.tracking_server, t.workspace, t.run_id, s.charge_date,
  -- whole nanoseconds are added, for a sum of floats depends on the order of the rows
  sum(t.nanoseconds) / 1e9 as machine_seconds,
  sum(t.nanoseconds * u.machine_gpus) / 1e9 as gpu_seconds
from slot_targets t
join (
  select resource_key, charge_period_start, charge_period_end, min(source) as source, min(charge_date) as charge_date
  from ledger_lines
  where line_kind = 'timed' and charge_category = 'Usage'
  group by resource_key, charge_period_start, charge_period_end
) s on s.resource_key = t.resource_key and s.charge_period_start = t.charge_period_start and s.charge_period_end = t.charge_period_end
left join machine_units u on u.resource_key = t.resource_key
where t.allocated_to = 'run'
group by s.source, t.tracking_server, t.workspace, t.run_id, s.charge_date
