-- One row per bill: how far it reaches, its usual delay and its state.
select
  source,
  covered_until,
  usual_lag_seconds,
  state
from sources
where kind = 'bill'
order by source
