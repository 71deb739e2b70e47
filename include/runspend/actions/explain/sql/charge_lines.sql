-- One row per charge that combines several bill lines: the number of its lines.
select source, billing_period, charge_id, count(*) as line_count
from charge_lines
where charge_id in unnest(@charges)
group by source, billing_period, charge_id
order by charge_id
