-- One row per bill line, or charge that combines several lines, whose id begins or ends with the text.
select source, billing_period, line_id
from billing_lines
where (starts_with(line_id, @id) or ends_with(line_id, @id)) and billing_period between @first_period and @last_period
union distinct
select source, billing_period, charge_id
from charge_lines
where (starts_with(charge_id, @id) or ends_with(charge_id, @id)) and billing_period between @first_period and @last_period
order by 3, 1, 2
limit 20
