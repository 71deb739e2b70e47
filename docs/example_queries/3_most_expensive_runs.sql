-- Which runs cost the most, including the runs they started? Children are left out: they are in their parent's figure.
select run_id, run_name, experiment_name, team, user_name, start_time, billing_currency, effective_cost, cost_with_children, cost_status
from run_costs
where cost_with_children <> 0
  and (parent_run_id is null or parent_run_id not in (select run_id from run_costs))
order by cost_with_children desc, run_id
limit 20
