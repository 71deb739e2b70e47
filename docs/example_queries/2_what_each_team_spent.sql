-- What did the runs of each team cost, month by month, and how much of it has exact or high confidence?
select
  cast(date_trunc(charge_date, month) as date) as month, billing_currency, coalesce(team, '(untagged)') as team,
  sum(effective_cost) as effective_cost,
  sum(case when confidence in ('exact', 'high') then effective_cost else bignumeric '0' end) as well_known_cost
from cost_daily
where allocated_to = 'run'
group by month, billing_currency, coalesce(team, '(untagged)')
order by month, billing_currency, effective_cost desc, team
