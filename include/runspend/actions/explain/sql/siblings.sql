-- One row per currency: the number of the experiment's runs that have a cost, and their median cost (nearest rank).
with placed as (
  select
    billing_currency, effective_cost, row_number() over (partition by billing_currency order by effective_cost) as place,
    count(*) over (partition by billing_currency) as runs
  from run_costs
  where tracking_server = @server and workspace = @workspace and experiment_id = @experiment and billing_currency <> '' and effective_cost > 0
)
select billing_currency, max(runs) as runs, max(case when place = cast(ceil(runs * 0.5) as int64) then effective_cost end) as median
from placed
group by billing_currency
order by billing_currency
