-- Budgets whose period starts in the month or earlier in its year, with the newest mail about each.
with mails as (
  select
    budget, budget_period, case when kind = 'actual' then threshold else concat(kind, ' ', threshold) end as threshold, decided_at,
    row_number() over (partition by budget, budget_period order by decided_at desc, alert_id desc) as place
  from alerts
  where kind <> 'anomaly' and message_id is not null
)
select
  b.budget, b.budget_period, b.amount, b.spent, b.currency, b.measure, b.crossed, b.covered_until, b.owner,
  b.title, b.forecast, b.forecast_low, b.forecast_high, b.passes_on,
  m.threshold as mailed_threshold, m.decided_at as mailed_at
from budget_status b
left join mails m on m.budget = b.budget and m.budget_period = b.budget_period and m.place = 1
where b.month >= @year_first and b.month <= @first
order by b.budget, b.budget_period
