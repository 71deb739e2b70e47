-- One row per line of the charge that a line is part of, or that an id names.
select charge_id, line_id
from charge_lines
where source = @source and billing_period = @period
  and charge_id in (select charge_id from charge_lines where source = @source and billing_period = @period and (line_id = @line or charge_id = @line))
order by line_id
