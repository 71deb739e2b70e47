-- rows: run hours that are estimated although they are on the machine's bill, or although the ledger allocates them by another rule
with both as (
  select
    e.tracking_server, e.workspace, e.run_id, e.resource_id, e.estimated_from, e.estimated_to, a.charge_period_start, a.charge_period_end,
    e.effective_cost as estimated_cost, a.effective_cost as ledger_cost
  from run_estimates e
  join cost_allocations a
    on a.tracking_server = e.tracking_server and a.workspace = e.workspace and a.run_id = e.run_id and a.resource_id = e.resource_id and a.source = e.source
  where a.billing_period >= @period and a.allocated_to = 'run' and a.charge_category = 'Usage' and e.cost_kind = 'compute'
  union all
  select
    e.tracking_server, e.workspace, e.run_id, e.resource_id, e.estimated_from, e.estimated_to, a.charge_period_start, a.charge_period_end,
    e.effective_cost, a.effective_cost
  from run_estimates e
  join cost_allocations a on a.tracking_server = e.tracking_server and a.workspace = e.workspace and a.run_id = e.run_id
  where a.billing_period >= @period and a.allocated_to = 'run' and a.charge_category = 'Usage' and e.cost_kind = 'compute'
    and e.resource_id is null and e.effective_cost is not null
    and a.cost_kind = 'compute' and a.match_method in ('run_tag', 'job_id', 'pool_time', 'instance_type_time')
)
select
  tracking_server, workspace, run_id, resource_id, estimated_from, charge_period_start, charge_period_end, estimated_cost, ledger_cost,
  estimated_cost - ledger_cost as difference
from both
where charge_period_start < estimated_to and charge_period_end > estimated_from and at_most_a_day(charge_period_start, charge_period_end)
