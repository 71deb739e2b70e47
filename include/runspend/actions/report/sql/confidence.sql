-- Allocation confidence: cost and number of ledger rows by allocation rule.
select
  billing_currency, allocated_to, match_method, confidence,
  sum(effective_cost) as effective_cost, count(*) as ledger_rows,
  count(distinct case when allocated_to = 'run' then target_id end) as runs
from cost_allocations
where charge_date >= @first and charge_date < @next and allocated_to <> 'out_of_scope'
group by billing_currency, allocated_to, match_method, confidence
order by billing_currency, allocated_to, match_method, confidence
