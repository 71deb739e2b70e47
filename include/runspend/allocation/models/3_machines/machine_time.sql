-- one row per run, charge date, bill and shard of machines: the run's own part of the time of its machines
select
  t.usage_source as source, t.tracking_server, t.workspace, t.run_id, date(t.charge_period_start) as charge_date,
  -- Whole nanoseconds are added, because a sum of floats depends on the order of rows.
  cast(sum(t.nanoseconds) as int64) as nanoseconds,
  cast(sum(t.nanoseconds * u.machine_gpus) as int64) as gpu_nanoseconds
from slot_targets t
left join machine_units u on u.resource_key = t.resource_key and u.month = charge_month(date(t.charge_period_start))
where t.allocated_to = 'run' and t.usage_source is not null
group by t.usage_source, t.tracking_server, t.workspace, t.run_id, charge_date
