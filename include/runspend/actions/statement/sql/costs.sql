-- The whole bill of a billing period by team, experiment, cost center and allocation target, in all four measures.
select
  team, experiment_name, cost_center, allocated_to, billing_currency,
  sum(list_cost) as list_cost, sum(contracted_cost) as contracted_cost,
  sum(effective_cost) as effective_cost, sum(billed_cost) as billed_cost
from cost_daily
where billing_period = @first
group by team, experiment_name, cost_center, allocated_to, billing_currency
order by billing_currency, team, experiment_name, cost_center, allocated_to
