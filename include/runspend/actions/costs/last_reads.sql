-- One row per tracking server that was read successfully: the time to which its runs are complete.
select source, covered_until
from sources
where kind = 'tracking' and covered_until is not null
order by source
