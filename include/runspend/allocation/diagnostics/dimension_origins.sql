-- Allocated cost by the source of one dimension of its runs.
select d.billing_currency, case when c.{name} is not null then coalesce(c.{name}_from, '') end as came_from, sum(d.effective_cost) as effective_cost
from run_costs_daily d
left join run_costs c
  on c.tracking_server = d.tracking_server and c.workspace = d.workspace and c.run_id = d.run_id and c.billing_currency = d.billing_currency
where d.charge_date >= @first and d.charge_date < @next
group by d.billing_currency, case when c.{name} is not null then coalesce(c.{name}_from, '') end
