-- Storage charges of the month by experiment, for the experiment's runs and models.
select billing_currency, tracking_server, workspace, experiment_id, sum(effective_cost) as effective_cost
from cost_daily
where cost_kind = 'storage' and allocated_to in ('run', 'logged_model') and charge_date >= @first and charge_date < @next
group by billing_currency, tracking_server, workspace, experiment_id
order by billing_currency, tracking_server, workspace, experiment_id
