-- The mean utilization of each run from the points in `raw_use`. Every metric (of a GPU or a node) has the same weight, even if it was
-- logged more often than others. The sums are integers (millionths of a percent), so the order of the points does not change them.
insert into fresh_use
with metrics as (
  select run_id, sum(cast(round(value * 1000000) as bigint)) // count(*) as mean_millionths
  from raw_use
  where value between 0 and 100
  group by run_id, key
)
select run_id, (sum(mean_millionths) // count(*)) / 1000000.0 as mean_use_percent
from metrics
group by run_id
