-- Freshness of all sources that the pipeline reads.
select source, kind, state, covered_until, usual_lag_seconds, late_after_seconds, row_count, last_error, last_good_at
from sources
order by kind, source
