-- one row per charge period of a machine with runs: the time on its Usage lines, and their bill.
-- The time of one machine is at most the charge period. Several machines in one line may have more.
-- If the size of the machine changed, the row also has the units at that time. The size changes if a name is reused, or if a machine is
-- stopped, resized and started.
with machines as (
  select
    i.resource_key, i.month, min(i.machine_number) as machine_number, logical_or(i.is_several) as is_several,
    case when logical_or(u.is_resized) and not logical_or(i.is_several) then min(i.weight_kind) end as unit_kind, min(i.unit_scale) as unit_scale
  from run_intervals i
  left join machine_units u on u.resource_key = i.resource_key and u.month = i.month
  group by i.resource_key, i.month
),
skus as (
  select
    m.machine_number, l.charge_period_start, l.charge_period_end, l.source, coalesce(l.sku_id, '') as sku_id,
    -- A reversal subtracts time that another line bills.
    nullif(greatest(sum(case when l.charge_category = 'Usage' and l.charge_class is null then l.billed_nanoseconds end), 0), 0) as billed_nanoseconds,
    -- A correction of an hour is not a second hour.
    countif(l.charge_category = 'Usage' and l.charge_class is null) as usage_lines,
    -- A cluster may have spot machines and other machines at the same time.
    m.is_several and coalesce(l.pricing_category = 'Dynamic', false) as is_spot,
    max(case m.unit_kind
      when 'gpu' then nullif(l.machine_gpus, 0) * m.unit_scale
      when 'cpu' then nullif(l.machine_cpus, 0) * m.unit_scale
      when 'memory' then cast(ceil(nullif(l.machine_memory_gb, 0)) as int64)
    end) as units
  from ledger_lines l
  join machines m on m.resource_key = l.resource_key and m.month = l.month
  where l.line_kind = 'timed'
  group by m.machine_number, l.charge_period_start, l.charge_period_end, l.source, coalesce(l.sku_id, ''), m.is_several and coalesce(l.pricing_category = 'Dynamic', false)
),
windows as (
  -- Licenses, discounts, the two lines of a half-covered hour, and a second bill of the same machine add no time.
  -- The SKU with the most time is the machine.
  select
    machine_number, charge_period_start, charge_period_end, max(case when not is_spot then billed_nanoseconds end) as billed_nanoseconds,
    max(case when is_spot then billed_nanoseconds end) as spot_nanoseconds,
    min(case when usage_lines > 0 then source end) as usage_source, max(units) as units,
    timestamp_diff(charge_period_end, charge_period_start, microsecond) * 1000 as window_nanoseconds
  from skus
  group by machine_number, charge_period_start, charge_period_end
)
select
  w.machine_number, w.charge_period_start, w.charge_period_end, w.usage_source,
  cast(case
    when m.is_several then coalesce(w.billed_nanoseconds + w.spot_nanoseconds, w.billed_nanoseconds, w.spot_nanoseconds, t.billed_nanoseconds, w.window_nanoseconds)
    else least(coalesce(w.billed_nanoseconds, t.billed_nanoseconds, w.window_nanoseconds), w.window_nanoseconds)
  end as int64) as billed_nanoseconds,
  w.units
from windows w
join machines m on m.machine_number = w.machine_number
left join borrowed_times t on t.resource_key = m.resource_key and t.charge_period_start = w.charge_period_start and t.charge_period_end = w.charge_period_end
