-- Every billing period with costs.
select distinct billing_period from cost_daily order by billing_period
