-- Mean use of each run from the points in `raw_use`: every metric (a GPU, a node) counts alike, however often it was logged.
-- Sums of whole millionths of a percent: the same whatever order the points come in.
insert into fresh_use
with metrics as (
  select run_id, key, sum(cast(round(value * 1000000) as bigint)) // count(*) as mean_millionths
  from raw_use
  where value between 0 and 100
  group by run_id, key
)
select run_id, (sum(mean_millionths) // count(*)) / 1000000.0 as mean_use_percent
from metrics
group by run_id
