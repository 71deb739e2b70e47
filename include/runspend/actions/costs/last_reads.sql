-- When each tracking server was last read without an error.
select source, covered_until
from sources
where kind = 'tracking' and covered_until is not null
order by source
