-- one row per pool, claim that several runs share and mark: how many of them are there from the mark on
with changes as (
  select pool_number, claim_number, weight, nodes, interval_start as mark, 1 as change
  from pool_claims
  where is_family
  union all
  select pool_number, claim_number, weight, nodes, interval_end, -1
  from pool_claims
  where is_family
  union all
  select pool_number, claim_number, weight, nodes, used_from, 0
  from pool_uses
  where is_family
  union all
  select pool_number, claim_number, weight, nodes, used_to, 0
  from pool_uses
  where is_family
),
marks as (
  select pool_number, claim_number, mark, max(weight) as weight, max(nodes) as nodes, cast(sum(change) as int64) as change
  from changes
  group by pool_number, claim_number, mark
)
select
  pool_number, claim_number, mark, weight, nodes,
  cast(sum(change) over (partition by pool_number, claim_number order by mark rows between unbounded preceding and current row) as int64) as members
from marks
