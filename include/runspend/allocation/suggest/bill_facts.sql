-- The number of bill lines that meet each condition of `evidence.py`.
select
  count(*) as bill_lines,
  count(case when scope = 'exclude' then 1 end) as excluded_lines,
  count(case when is_machine then 1 end) as machine_lines,
  count(case when is_machine and is_timed then 1 end) as timed_lines,
  count(case when is_machine and is_timed and effective_cost <> 0 then 1 end) as paid_lines,
  (select count(*) from billing_quarantine where billing_period >= @first) as unreadable_rows
from (
  select
    scope, effective_cost, coalesce(instance_type, node_instance_type) is not null or coalesce(machine_gpus, node_gpus, 0) > 0
    or regexp_contains(lower(coalesce(sku_meter, charge_description, '')), r'{unnamed}') as is_machine,
    charge_category = 'Usage' and charge_class is null and charge_period_end > charge_period_start
    and at_most_a_day(charge_period_start, charge_period_end) as is_timed
  from billing_lines
  where billing_period >= @first
) l
