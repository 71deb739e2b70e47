-- One row per charge made of several bill lines: the number of lines.
select source, billing_period, charge_id, count(*) as line_count
from charge_lines
where charge_id in unnest(@charges)
group by source, billing_period, charge_id
order by charge_id
