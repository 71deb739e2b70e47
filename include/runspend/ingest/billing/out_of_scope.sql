-- Sums of the lines that an explicit scope excludes, for the chosen rows of one period. There is one sum per charge day, account, service and
-- category, and per column whose values must not be added together. Machines with accelerators have separate sums, with their types in the
-- description. The lines are summed because an ML warehouse does not need the lines of a company's whole bill.
-- {chosen} is the condition that `totals.py` defines for the period and its files.
with excluded as (
  select
    * exclude (charge_description), day_of(charge_period_start) as charge_date, coalesce(instance_type, node_instance_type) as machine_type,
    case
      when charge_category = 'Usage' and (
        coalesce(machine_gpus, node_gpus, 0) > 0
        or regexp_full_match(machine_type, {accelerated_types})
        or (machine_type is null and regexp_matches(coalesce(sku_meter, charge_description), {accelerated_meters}))
      ) then 'accelerators: ' || coalesce(machine_type, sku_meter, charge_description)
    end as charge_description
  from staged
  where reject_reason is null and scope = 'exclude' and {chosen}
)
select
  getvariable('source') as source, billing_period, 'exclude' as scope, getvariable('load_id') as load_id,
  printf('%016x', hash(
    billing_period, charge_date, billing_account_id, sub_account_id, service_provider_name, service_name, charge_category, billing_currency
  )) || coalesce(printf('-%016x', hash(charge_description)), '') || '-sum' as line_id,
  charge_date, billing_account_id, sub_account_id, service_provider_name, service_name, charge_category, billing_currency, charge_description,
  min(billing_period_start) as billing_period_start,
  max(billing_period_end) as billing_period_end,
  cast(charge_date as timestamptz) as charge_period_start,
  cast(charge_date + interval 1 day as timestamptz) as charge_period_end,
  sum(list_cost) as list_cost,
  sum(contracted_cost) as contracted_cost,
  sum(effective_cost) as effective_cost,
  sum(billed_cost) as billed_cost,
  cast([] as varchar[]) as group_keys
from excluded
group by all
