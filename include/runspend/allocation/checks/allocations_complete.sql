-- rows: charges whose target, kind or currency is missing, or whose run is not named
select source, charge_id, target_id, allocated_to, cost_kind, billing_currency
from cost_allocations
where billing_period = @period
  and (target_id is null or cost_kind is null or billing_currency is null or charge_date is null
    or allocated_to is null or allocated_to not in ('run', 'logged_model', 'orphan', 'idle', 'shared', 'unallocated', 'out_of_scope')
    or (allocated_to = 'run' and (run_id is null or tracking_server is null or workspace is null)))
