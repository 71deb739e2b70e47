-- one row per machine and charge period in which a credit or correction of the machine names no pool, and its usage names one:
-- all usage of the machine on this bill, or, for an earlier month, the usage of that charge period
with credits as (
  select resource_key, charge_period_start, charge_period_end, min(charge_date) >= @period as is_of_period
  from billing_lines
  where billing_period = @period and resource_key is not null and pool_key is null
    and (charge_category in ('Credit', 'Adjustment') or charge_class = 'Correction')
  group by resource_key, charge_period_start, charge_period_end
),
pooled as (
  select l.resource_key, min(l.pool_key) as pool_key
  from billing_lines l
  join (select distinct resource_key from credits where is_of_period) c on c.resource_key = l.resource_key
  where l.billing_period = @period and l.charge_category = 'Usage' and l.charge_class is null
  group by l.resource_key
  having min(l.pool_key) = max(l.pool_key) and countif(l.pool_key is null) = 0
)
select c.resource_key, c.charge_period_start, c.charge_period_end, p.pool_key
from credits c
join pooled p on p.resource_key = c.resource_key
where c.is_of_period
union all
select c.resource_key, c.charge_period_start, c.charge_period_end, e.pool_key
from credits c
join earlier_properties e
  on e.resource_key = c.resource_key and e.charge_period_start = c.charge_period_start and e.charge_period_end = c.charge_period_end
where not c.is_of_period and e.pool_key is not null
