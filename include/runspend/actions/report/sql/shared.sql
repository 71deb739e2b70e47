-- Shared cost with what tells its kind. The reason is the ledger's, for charges that look the same.
with reasons as (
  select
    source, billing_period, coalesce(service_name, '') as service_name, coalesce(sub_account_id, '') as sub_account_id, charge_category, cost_kind,
    max(reason) as reason
  from cost_allocations
  where allocated_to = 'shared' and billing_period >= @previous_first and billing_period <= @next
  group by source, billing_period, coalesce(service_name, ''), coalesce(sub_account_id, ''), charge_category, cost_kind
)
select d.billing_currency, d.charge_category, d.service_name, r.reason, sum(d.effective_cost) as effective_cost
from cost_daily d
left join reasons r
  on r.source = d.source and r.billing_period = d.billing_period and r.service_name = coalesce(d.service_name, '')
  and r.sub_account_id = coalesce(d.sub_account_id, '') and r.charge_category = d.charge_category and r.cost_kind = d.cost_kind
where d.allocated_to = 'shared' and d.charge_date >= @first and d.charge_date < @next
group by d.billing_currency, d.charge_category, d.service_name, r.reason
order by d.billing_currency, d.charge_category, d.service_name, r.reason
