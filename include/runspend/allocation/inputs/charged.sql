-- The time span of a period's lines, for which runs are needed. Lines that are split by time need runs for their whole length. For longer
-- lines of a machine, only the month in which they begin shows whether the machine served runs. A yearly fee thus does not need a year of runs.
with lines as (
  select
    charge_period_start, charge_period_end, run_tag,
    resource_key is not null and charge_category = 'Usage' as is_of_machine,
    (resource_key is not null or job_key is not null or pool_key is not null or principal_key is not null or service_subcategory = 'Generative AI'
      or (instance_type is not null and charge_category = 'Usage' and coalesce(charge_class, '') <> 'Correction'))
    and charge_period_end > charge_period_start
    and at_most_a_day(charge_period_start, charge_period_end) as is_timed
  from billing_lines
  where billing_period = @period
  union all
  -- Late lines that are attached to other machines, such as traffic of a node group. Few lines are late, and only these are read.
  select charge_period_start, charge_period_end, cast(null as string), false, true
  from billing_lines
  where billing_period = @period and charge_date < @period and (attached_to is not null or array_length(group_keys) > 0)
    and charge_period_end > charge_period_start and at_most_a_day(charge_period_start, charge_period_end)
)
select
  min(case when is_timed or is_of_machine then charge_period_start end) as first,
  max(case when is_timed then charge_period_end when is_of_machine then timestamp_add(charge_period_start, interval 1 microsecond) end) as last,
  countif(run_tag is not null) as tagged
from lines
