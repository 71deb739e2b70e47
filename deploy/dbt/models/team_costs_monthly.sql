-- One row per month, currency and team, with (idle), (shared) and other parts of the bill that are no team's. Without out-of-scope cost.
select
  cast({{ dbt.date_trunc("month", "charge_date") }} as date) as charge_month,
  billing_currency,
  team,
  part,
  sum(effective_cost) as effective_cost,
  sum(billed_cost) as billed_cost
from {{ source("runspend", "costs_for_dashboards") }}
where allocated_to <> 'out_of_scope'
group by 1, 2, 3, 4
