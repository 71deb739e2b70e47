-- one row per run, charge date, bill and shard of machines: the run's own share of its machines' time
select
  t.usage_source as source, t.tracking_server, t.workspace, t.run_id, date(t.charge_period_start) as charge_date,
  -- Adds whole nanoseconds, because a sum of floats depends on row order.
  cast(sum(t.nanoseconds) as int64) as nanoseconds,
  cast(sum(t.nanoseconds * u.machine_gpus) as int64) as gpu_nanoseconds
from slot_targets t
left join machine_units u on u.resource_key = t.resource_key and u.month = charge_month(date(t.charge_period_start))
where t.allocated_to = 'run' and t.usage_source is not null
group by t.usage_source, t.tracking_server, t.workspace, t.run_id, charge_date
