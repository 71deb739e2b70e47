-- one row per bill line of a charge that consists of several lines
select source, billing_period, line_id, charge_id, line_from
from pooled_lines
