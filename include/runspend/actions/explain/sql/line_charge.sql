-- One row per line of a combined charge. The given id is that of the charge or of one of its lines.
select charge_id, line_id
from charge_lines
where source = @source and billing_period = @period
  and charge_id in (select charge_id from charge_lines where source = @source and billing_period = @period and (line_id = @line or charge_id = @line))
order by line_id
