-- One row per user of the runs with costs in a budget on some days, highest cost first, with the number of such users.
select
  r.user_name,
  sum(c.{measure}) as spent,
  count(distinct r.run_id) as runs,
  count(*) over () as user_count
from run_costs_daily as c
inner join runs as r
  on r.tracking_server = c.tracking_server
  and r.workspace = c.workspace
  and r.run_id = c.run_id
left join experiments as x
  on x.tracking_server = r.tracking_server
  and x.workspace = r.workspace
  and x.experiment_id = r.experiment_id
where c.charge_date >= @first_date
  and c.charge_date < @end_date
  and c.billing_currency = @currency
  and {selector}
group by r.user_name
order by spent desc, r.user_name
limit @top
