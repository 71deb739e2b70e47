-- One row per experiment with costs in a budget, or per kind of cost without an experiment. The highest cost comes first. Each row also has the
-- number of all these rows, and their total cost in the days before.
with
driver_days as (
  select
    allocated_to,
    tracking_server,
    workspace,
    experiment_id,
    experiment_name,
    user_name,
    if(charge_date >= @first_date and charge_date < @end_date, {measure}, null) as spent,
    if(charge_date >= @before_first_date and charge_date < @before_end_date, {measure}, null) as spent_before
  from {costs}
  where charge_date >= @before_first_date
    and charge_date < @end_date
    and billing_currency = @currency
    and allocated_to != 'out_of_scope'
    and {selector}
),
drivers as (
  select
    allocated_to,
    tracking_server,
    workspace,
    experiment_id,
    max(experiment_name) as experiment_name,
    min(user_name) as first_user,
    max(user_name) as last_user,
    sum(spent) as spent,
    sum(spent_before) as spent_before
  from driver_days
  group by allocated_to, tracking_server, workspace, experiment_id
)
select
  allocated_to,
  experiment_id,
  experiment_name,
  first_user,
  last_user,
  spent,
  spent_before,
  sum(spent_before) over () as total_before,
  count(*) over () as driver_count
from drivers
where spent is not null
   or spent_before is not null
order by spent desc, allocated_to, experiment_name, tracking_server, workspace, experiment_id
limit @top
