-- one row per attachment key and charge period in which machines with this key have time
select target_key, charge_period_start, charge_period_end, true as is_reached
from attached_parts
where nanoseconds > 0
union distinct
select target_key, charge_period_start, charge_period_end, true
from job_attached_parts
where nanoseconds > 0
