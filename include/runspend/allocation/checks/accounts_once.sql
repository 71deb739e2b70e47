-- rows: account and two bills that both contain its charges of the period, which would be counted twice
with held as (
  select
    source, billing_account_id, coalesce(sub_account_id, '') as sub_account_id, billing_currency,
    coalesce(sum(billed_cost), bignumeric '0') as billed_cost
  from billing_lines
  where billing_period = @period and billing_account_id is not null and scope is distinct from 'exclude'
  group by source, billing_account_id, coalesce(sub_account_id, ''), billing_currency
)
select
  a.billing_account_id, a.sub_account_id, a.billing_currency,
  a.source as first_source, b.source as second_source,
  a.billed_cost as first_billed_cost, b.billed_cost as second_billed_cost
from held a
join held b
  on b.billing_account_id = a.billing_account_id and b.sub_account_id = a.sub_account_id and b.billing_currency = a.billing_currency
  and a.source < b.source
