-- Estimation error of recent pipeline runs, by bill.
select
  billing_currency, source, count(distinct judged_at) as pipeline_runs, sum(estimated_cost) as estimated_cost, sum(actual_cost) as actual_cost,
  sum(abs(difference_cost)) as apart_cost
from estimate_errors
where judged_at >= @judged_since
group by billing_currency, source
order by billing_currency, source
