-- One row per run with costs in a budget, for the days [@first_date, @end_date). The highest cost comes first. Each row also has the number of
-- such runs.
select
  c.tracking_server,
  c.workspace,
  c.run_id,
  max(r.run_name) as run_name,
  max(r.user_name) as user_name,
  max(r.experiment_name) as experiment_name,
  max(r.instance_type) as instance_type,
  max(r.num_nodes) as num_nodes,
  sum(c.{measure}) as spent,
  count(*) over () as run_count
{runs}
where c.charge_date >= @first_date
  and c.charge_date < @end_date
  and c.billing_currency = @currency
  and {selector}
group by c.tracking_server, c.workspace, c.run_id
order by spent desc, c.tracking_server, c.workspace, c.run_id
limit @top
