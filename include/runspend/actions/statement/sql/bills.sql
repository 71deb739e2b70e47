-- The bills of a billing period: their state, the current version, and changes that are ignored because the month is closed.
select p.source, p.state, p.ignored_changes, max(l.version_number) as version_number
from period_states p
left join billing_loads l on l.source = p.source and l.billing_period = p.billing_period and l.state = 'current'
where p.billing_period = @first
group by p.source, p.state, p.ignored_changes
order by p.source
