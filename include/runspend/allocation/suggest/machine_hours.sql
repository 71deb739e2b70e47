-- The charge periods of the most expensive groups of machines without a run.
with {left_lines},
kept as (
  select cell from numbered group by cell order by sum(effective_cost) desc, cell limit {most}
),
kept_hours as (
  select n.cell, n.charge_period_start, n.charge_period_end, n.machines, n.nanoseconds, n.effective_cost
  from numbered n
  join kept k on k.cell = n.cell
)
select cell, charge_period_start, charge_period_end, machines, nanoseconds, effective_cost
from kept_hours
order by cell, charge_period_start, charge_period_end
