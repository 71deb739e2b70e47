-- Estimated cost of runs by day, for time that no bill covers yet. Days after the month are included as long as no charge is dated after it.
select
  billing_currency, charge_date, cost_kind, sum(effective_cost) as effective_cost,
  min(estimated_from) as estimated_from, max(estimated_to) as estimated_to
from run_estimates
where charge_date >= @first and effective_cost is not null
  and (charge_date < @next or not exists (select 1 from cost_daily where charge_date >= @next))
group by billing_currency, charge_date, cost_kind
order by billing_currency, charge_date, cost_kind
