-- One row per charge and target of these resources on these days. instance_type and is_machine are as in the explorer (see ledger.sql), from
-- the bills with charges from @since to @until. is_long: the charge is longer than a day, and the explorer spreads it over its days.
with types as (
  select source, billing_period, coalesce(sub_account_id, '') as sub_account_id, resource_id, charge_date, max(instance_type) as instance_type
  from billing_lines
  where resource_id in unnest(@resources) and instance_type is not null
    and billing_period in (select billing_period from cost_daily where charge_date >= @since and charge_date < @until)
  group by source, billing_period, coalesce(sub_account_id, ''), resource_id, charge_date
)
select
  a.source, a.billing_period, a.charge_id, a.target_id, a.charge_date, a.charge_period_start, a.charge_period_end, a.service_name, a.allocated_to,
  a.resource_id, a.tracking_server, a.workspace, a.run_id, a.effective_cost, a.billing_currency, coalesce(d.instance_type, t.instance_type) as instance_type,
  t.instance_type is not null or a.cost_kind = 'compute' as is_machine,
  not at_most_a_day(a.charge_period_start, a.charge_period_end) as is_long
from cost_allocations a
left join types d on d.source = a.source and d.billing_period = a.billing_period and d.sub_account_id = coalesce(a.sub_account_id, '') and d.resource_id = a.resource_id
  and d.charge_date = a.charge_date
left join (
  select source, billing_period, sub_account_id, resource_id, max(instance_type) as instance_type
  from types
  group by source, billing_period, sub_account_id, resource_id
) t on t.source = a.source and t.billing_period = a.billing_period and t.sub_account_id = coalesce(a.sub_account_id, '') and t.resource_id = a.resource_id
where a.resource_id in unnest(@resources) and a.charge_date between @first_date and @last_date and a.allocated_to <> 'out_of_scope'
order by a.charge_period_start, a.resource_id, a.charge_id, a.target_id
