-- One row per bill and billing period: its current version, and the time to which it is complete.
select source, billing_period, max(version_number) as version_number, max(covered_until) as covered_until
from billing_loads
where state = 'current'
group by source, billing_period
order by source, billing_period
