-- Runs that are named by tags of the period's bill lines.
select {run_columns}
from runs r
join (select distinct run_tag from billing_lines where billing_period = @period) t on t.run_tag = r.run_id
order by r.run_id, r.tracking_server, r.workspace
