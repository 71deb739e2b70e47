-- Budgets whose period starts in the month or earlier in its year, with the newest alert for each.
-- An alert can cover several thresholds. The row has the threshold in the alert's subject, which Decision.lead chooses. If the budget is
-- exceeded, it is the highest threshold that was exceeded. Otherwise it is the highest threshold that the forecast exceeds.
with candidates as (
  select
    budget, budget_period, kind, threshold, decided_at, alert_id, spent < amount and kind = 'forecast' or spent >= amount and kind <> 'forecast' as is_subject,
    safe_cast(regexp_extract(threshold, r'^[0-9.]+') as float64) * case when ends_with(threshold, '%') then cast(amount as float64) / 100 else 1 end as level
  from alerts
  where kind <> 'anomaly' and message_id is not null
),
mails as (
  select
    budget, budget_period, case when kind = 'actual' then threshold else concat(kind, ' ', threshold) end as threshold, decided_at,
    row_number() over (partition by budget, budget_period order by decided_at desc, is_subject desc, level desc, alert_id desc) as place
  from candidates
)
select
  b.budget, b.budget_period, b.amount, b.spent, b.currency, b.measure, b.threshold_reached, b.covered_until, b.owner,
  b.title, b.forecast, b.forecast_low, b.forecast_high, b.exceeded_on,
  m.threshold as mailed_threshold, m.decided_at as mailed_at
from budget_status b
left join mails m on m.budget = b.budget and m.budget_period = b.budget_period and m.place = 1
where b.month >= @year_first and b.month <= @first
order by b.budget, b.budget_period
