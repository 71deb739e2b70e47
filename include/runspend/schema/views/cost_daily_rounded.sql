-- The rows of cost_daily, plus each cost in whole cents.
-- Not the cost itself is rounded, but the running sum over a billing period. A cent that is lost in one row is gained in another, so sums do
-- not drift. The running sum is the total of earlier days plus the running sum within the day of a bill, so each day can be computed alone.
-- The rows are sorted by the columns that people most often group by. The order contains every column of the grain, so it is always the same.
with days as (
  select
    billing_period, billing_currency, source, charge_date,
    sum(sum(list_cost)) over (w rows between unbounded preceding and current row) - sum(list_cost) as list_before,
    sum(sum(contracted_cost)) over (w rows between unbounded preceding and current row) - sum(contracted_cost) as contracted_before,
    sum(sum(effective_cost)) over (w rows between unbounded preceding and current row) - sum(effective_cost) as effective_before,
    sum(sum(billed_cost)) over (w rows between unbounded preceding and current row) - sum(billed_cost) as billed_before
  from cost_daily
  group by billing_period, billing_currency, source, charge_date
  window w as (partition by billing_period, billing_currency order by source, charge_date)
),
summed as (
  select
    *,
    sum(list_cost) over (w rows between unbounded preceding and current row) as list_sum,
    sum(contracted_cost) over (w rows between unbounded preceding and current row) as contracted_sum,
    sum(effective_cost) over (w rows between unbounded preceding and current row) as effective_sum,
    sum(billed_cost) over (w rows between unbounded preceding and current row) as billed_sum
  from cost_daily
  window w as (
    partition by billing_period, billing_currency, source, charge_date
    order by
      team, experiment_name, allocated_to, cost_kind, service_name, project, cost_center, owner, user_name, tracking_server, workspace,
      experiment_id, service_provider_name, billing_account_id, sub_account_id, region_id, charge_category, confidence, cost_status, is_spread
  )
)
select
  s.* except (list_sum, contracted_sum, effective_sum, billed_sum),
  cast(round(list_before + list_sum, 2) - round(list_before + list_sum - list_cost, 2) as float64) as list_cost_rounded,
  cast(round(contracted_before + contracted_sum, 2) - round(contracted_before + contracted_sum - contracted_cost, 2) as float64)
    as contracted_cost_rounded,
  cast(round(effective_before + effective_sum, 2) - round(effective_before + effective_sum - effective_cost, 2) as float64)
    as effective_cost_rounded,
  cast(round(billed_before + billed_sum, 2) - round(billed_before + billed_sum - billed_cost, 2) as float64) as billed_cost_rounded
from summed as s
join days as d
  on d.billing_period = s.billing_period and d.billing_currency = s.billing_currency and d.source = s.source and d.charge_date = s.charge_date
