-- rows: account and period whose charges two bills hold: they would be paid twice
select
  billing_account_id, sub_account_id,
  min(source) as first_source, max(source) as second_source,
  sum(case when source = first_of_account then coalesce(billed_cost, bignumeric '0') else bignumeric '0' end) as first_billed_cost,
  sum(case when source = first_of_account then bignumeric '0' else coalesce(billed_cost, bignumeric '0') end) as other_billed_cost
from (
  select
    *,
    min(source) over (partition by billing_account_id, sub_account_id) as first_of_account
  from billing_lines
  where billing_period = @period and billing_account_id is not null and scope is distinct from 'exclude'
)
group by billing_account_id, sub_account_id
having min(source) <> max(source)
