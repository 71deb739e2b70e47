-- State of each bill of the billing period. It has the changes that were not applied after closing, and the cost of versions loaded after
-- closing.
with versions as (
  select source, version_number, min(loaded_at) as loaded_at
  from billing_loads
  where billing_period = @first and state in ('current', 'replaced')
  group by source, version_number
),
changes as (
  select c.source, c.billing_currency, c.effective_cost, v.loaded_at
  from bill_changes c
  join versions v on v.source = c.source and v.version_number = c.version_number
  where c.billing_period = @first
)
select
  p.source, p.state, p.ignored_changes, coalesce(c.billing_currency, '') as billing_currency,
  sum(case when c.loaded_at > p.closed_since then c.effective_cost end) as restated_cost
from period_states p
left join changes c on c.source = p.source
where p.billing_period = @first
group by p.source, p.state, p.ignored_changes, coalesce(c.billing_currency, '')
order by p.source, billing_currency
