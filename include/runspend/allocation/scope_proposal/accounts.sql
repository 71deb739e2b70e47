-- Cost of each account and service, in scope and out of scope.
select
  billing_currency, source, coalesce(sub_account_id, '') as sub_account_id, coalesce(service_name, '') as service_name,
  sum(case when allocated_to = 'run' then effective_cost end) as run_cost,
  sum(case when allocated_to not in ('out_of_scope', 'shared') then effective_cost end) as inside_cost,
  sum(case when allocated_to = 'shared' then effective_cost end) as shared_cost,
  sum(case when allocated_to = 'out_of_scope' then effective_cost end) as outside_cost
from cost_allocations
where billing_period = @first
group by billing_currency, source, coalesce(sub_account_id, ''), coalesce(service_name, '')
order by inside_cost desc, source, sub_account_id, service_name
