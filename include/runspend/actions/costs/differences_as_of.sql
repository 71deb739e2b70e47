-- Bills for which the changes up to a day do not add up to the totals of the newest version of that day. No rows means no error.
with {versions},
newest as (
  select source, billing_period, max(version_number) as version_number from versions group by source, billing_period
),
both_sides as (
  select source, billing_period, billing_currency, list_cost, contracted_cost, effective_cost, billed_cost from changes
  union all
  select l.source, l.billing_period, l.billing_currency, -l.list_cost, -l.contracted_cost, -l.effective_cost, -l.billed_cost
  from billing_loads l
  join newest n on n.source = l.source and n.billing_period = l.billing_period and n.version_number = l.version_number
  where l.state in ('current', 'replaced')
)
select
  source, billing_period, billing_currency, sum(b.list_cost) as list_cost, sum(b.contracted_cost) as contracted_cost,
  sum(b.effective_cost) as effective_cost, sum(b.billed_cost) as billed_cost
from both_sides b
group by source, billing_period, billing_currency
having sum(b.list_cost) != 0 or sum(b.contracted_cost) != 0 or sum(b.effective_cost) != 0 or sum(b.billed_cost) != 0
