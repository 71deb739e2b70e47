-- Cost of runs in other billing periods, by account and service, because a scope applies to all periods.
select
  billing_currency, source, coalesce(sub_account_id, '') as sub_account_id, coalesce(service_name, '') as service_name, sum(effective_cost) as effective_cost
from cost_daily
where billing_period <> @first and allocated_to = 'run'
group by billing_currency, source, coalesce(sub_account_id, ''), coalesce(service_name, '')
order by effective_cost desc, source, sub_account_id, service_name, billing_currency
