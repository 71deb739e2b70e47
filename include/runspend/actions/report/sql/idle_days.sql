-- The machines with the most idle cost, day by day: used and idle cost of their Usage charges.
with idle_machines as (
  select billing_currency, resource_id
  from unallocated_costs
  where billing_period = @first and allocated_to = 'idle' and resource_id <> ''
  group by billing_currency, resource_id
  qualify row_number() over (partition by billing_currency order by sum(effective_cost) desc, resource_id) <= 20
)
select
  a.billing_currency, a.resource_id, a.charge_date,
  sum(case when a.allocated_to = 'run' then a.effective_cost end) as used_cost,
  sum(case when a.allocated_to = 'idle' then a.effective_cost end) as idle_cost
from cost_allocations a
join idle_machines m on m.billing_currency = a.billing_currency and m.resource_id = a.resource_id
where a.charge_date >= @first and a.charge_date < @next and a.charge_category = 'Usage' and a.allocated_to in ('run', 'idle')
group by a.billing_currency, a.resource_id, a.charge_date
order by a.billing_currency, a.resource_id, a.charge_date
