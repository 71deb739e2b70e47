-- Cost of a period by allocation rule, with the columns that name the pool and the kind of shared cost.
select
  billing_currency, allocated_to, match_method, case when match_method = 'pool_time' then pool_key end as pool_key,
  confidence, case when allocated_to = 'shared' then reason end as reason, case when allocated_to = 'shared' then charge_category end as charge_category,
  case when allocated_to = 'shared' then service_name end as service_name, sum(effective_cost) as effective_cost
from cost_allocations
where billing_period = @first
group by
  billing_currency, allocated_to, match_method, case when match_method = 'pool_time' then pool_key end, confidence,
  case when allocated_to = 'shared' then reason end, case when allocated_to = 'shared' then charge_category end,
  case when allocated_to = 'shared' then service_name end
