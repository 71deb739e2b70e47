-- The hours of those groups of runs without a machine that ran longest.
with {left_runs},
kept as (
  select cell from numbered group by cell order by sum(micros) desc, cell limit {most}
)
select n.cell, n.hour_number, sum(n.micros) as micros
from numbered n
join kept k on k.cell = n.cell
group by n.cell, n.hour_number
order by n.cell, n.hour_number
