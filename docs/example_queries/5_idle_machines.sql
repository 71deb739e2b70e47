-- Which machines that serve runs were idle, and how much of their cost was idle?
select
  billing_period, resource_id, billing_currency,
  sum(effective_cost) as effective_cost,
  sum(case when allocated_to = 'idle' then effective_cost else bignumeric '0' end) as idle_cost,
  count(distinct run_id) as run_count
from cost_allocations
where match_method = 'resource_id'
group by billing_period, resource_id, billing_currency
order by idle_cost desc, billing_period, resource_id
