-- Cost in scope, by kind. It is used to show what a proposal leaves out.
select
  billing_currency, source, coalesce(sub_account_id, '') as sub_account_id, coalesce(service_name, '') as service_name,
  allocated_to = 'shared' as is_shared, case when allocated_to = 'shared' then reason end as reason,
  case when allocated_to = 'shared' then charge_category end as charge_category, sum(effective_cost) as effective_cost
from cost_allocations
where billing_period = @first and allocated_to <> 'out_of_scope'
group by
  billing_currency, source, coalesce(sub_account_id, ''), coalesce(service_name, ''), allocated_to = 'shared',
  case when allocated_to = 'shared' then reason end, case when allocated_to = 'shared' then charge_category end
order by effective_cost desc, reason, charge_category
