-- Estimated cost of runs for time that no bill reaches yet, by day: of the month, and after it where no bill has charges yet.
select
  billing_currency, charge_date, cost_kind, sum(effective_cost) as effective_cost,
  min(estimated_from) as estimated_from, max(estimated_to) as estimated_to
from run_estimates
where charge_date >= @first and effective_cost is not null
  and (charge_date < @next or not exists (select 1 from cost_daily where charge_date >= @next))
group by billing_currency, charge_date, cost_kind
order by billing_currency, charge_date, cost_kind
