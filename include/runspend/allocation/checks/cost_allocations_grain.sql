-- rows: keys of cost_allocations that are duplicated or incomplete
select source, @period as billing_period, charge_id, target_id, count(*) as rows_found
from cost_allocations
where billing_period = @period
group by source, charge_id, target_id
having count(*) > 1 or source is null or charge_id is null or target_id is null
