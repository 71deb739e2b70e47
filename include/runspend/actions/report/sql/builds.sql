-- The build behind the cost tables of the billing period.
select build_id, now
from builds
where step = 'allocate' and month = @first
