-- One row per bill and period: its current version.
select source, billing_period, max(version_number) as version_number, max(covered_until) as covered_until
from billing_loads
where state = 'current'
group by source, billing_period
order by source, billing_period
