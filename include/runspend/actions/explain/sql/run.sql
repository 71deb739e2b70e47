-- One row per billing currency: the run as MLflow has it, with its total cost. A run without a cost has one row, with nulls.
select
  r.tracking_server, r.workspace, r.run_id, r.start_month, r.run_name, r.experiment_id, r.experiment_name, r.user_name, r.run_status, r.lifecycle_stage,
  r.start_time, r.end_time, r.future_end_time, r.last_sign_at, r.gaps, r.parent_run_id,
  r.instance_type, r.sub_account_id, r.region_id, r.availability_zone, r.purchase_option, r.num_nodes, r.gpu_type, r.gpu_count, r.cpu_request, r.memory_request_gb, r.resource_ids, r.job_id, r.job_key, r.pool_key,
  coalesce(c.team, r.team) as team, coalesce(c.team_from, r.team_from) as team_from,
  coalesce(c.project, r.project) as project, coalesce(c.project_from, r.project_from) as project_from,
  coalesce(c.cost_center, r.cost_center) as cost_center, coalesce(c.cost_center_from, r.cost_center_from) as cost_center_from,
  coalesce(c.owner, r.owner) as owner, coalesce(c.owner_from, r.owner_from) as owner_from,
  c.run_id is not null as is_summarized, c.billing_currency, c.list_cost, c.contracted_cost, c.effective_cost, c.billed_cost, c.unused_cost, c.overhead_cost,
  c.cost_with_children, c.first_charge_date, c.last_charge_date, c.confidence, c.cost_status
from (select * from runs where start_month = @month and run_id = @run_id and tracking_server = @server and workspace = @workspace) r
left join (select * from run_costs where start_month = @month and run_id = @run_id and tracking_server = @server and workspace = @workspace) c
  on c.run_id = r.run_id
order by c.billing_currency
