-- One row per charge without a single resource: its cost, the number of runs that share it, and the part that was not allocated to a run.
select
  source, billing_period, charge_id, sum(effective_cost) as effective_cost, countif(allocated_to = 'run') as runs,
  sum(case when allocated_to in ('idle', 'unallocated', 'orphan', 'out_of_scope') then effective_cost end) as unused_cost
from cost_allocations
where charge_id in unnest(@charges) and charge_date between @first_date and @last_date
  -- `sharing` adds rows that give cost to runs, and rows that subtract the same amount from the shared cost. Count only the first kind.
  and (match_method <> 'sharing' or allocated_to = 'run')
group by source, billing_period, charge_id
order by charge_id
