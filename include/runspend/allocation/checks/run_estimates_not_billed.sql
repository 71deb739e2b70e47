-- rows: run hours that are estimated although the machine's bill has them, or the ledger has them by another rule than the machine
select
  e.tracking_server, e.workspace, e.run_id, e.resource_id, e.estimated_from, a.charge_period_start, a.charge_period_end,
  e.effective_cost as estimated_cost, a.effective_cost as ledger_cost, e.effective_cost - a.effective_cost as difference
from run_estimates e
join cost_allocations a
  on a.tracking_server = e.tracking_server and a.workspace = e.workspace and a.run_id = e.run_id
  and (
    (a.resource_id = e.resource_id and a.source = e.source)
    or (e.resource_id is null and a.cost_kind = 'compute' and a.match_method in ('run_tag', 'job_id', 'pool_time', 'instance_type_time'))
  )
where a.billing_period >= @period and a.allocated_to = 'run' and a.charge_category = 'Usage' and e.cost_kind = 'compute'
  and a.charge_period_start < e.estimated_to and a.charge_period_end > e.estimated_from
  and at_most_a_day(a.charge_period_start, a.charge_period_end)
