-- one row per pool, claim shared by several runs and mark: the number of these runs that are active from the mark on, and what they ask for.
-- Members with their own machines use their part of the claim. If four children share a claim on four nodes and one child has its own machine,
-- three nodes remain.
with claims as (
  select distinct pool_number, claim_number, tracking_server, claim_run_id
  from pool_claims
  where is_family
),
held as (
  select c.pool_number, c.claim_number, m.held_from, m.held_to
  from pool_held m
  join claims c on c.pool_number = m.pool_number and c.tracking_server = m.tracking_server and c.claim_run_id = m.claim_run_id
  left join (select distinct tracking_server, run_id, pool_number from pool_held where not is_tagged) o
    on o.tracking_server = m.tracking_server and o.run_id = m.run_id and o.pool_number = m.pool_number
  where m.run_id <> m.claim_run_id and m.nodes_left = 0
    -- A machine that is both tagged and stated counts once.
    and (not m.is_tagged or o.run_id is null)
  union all
  select c.pool_number, c.claim_number, s.span_start, s.span_end
  from pool_spans s
  join claims c on c.pool_number = s.pool_number and c.tracking_server = s.tracking_server and c.claim_run_id = s.claim_run_id
  join claimed_runs m on m.tracking_server = s.tracking_server and m.workspace = s.workspace and m.run_id = s.run_id
  where s.run_id <> s.claim_run_id
),
changes as (
  select pool_number, claim_number, weight, nodes, interval_start as mark, 1 as change, 0 as held_change
  from pool_claims
  where is_family
  union all
  select pool_number, claim_number, weight, nodes, interval_end, -1, 0
  from pool_claims
  where is_family
  union all
  select pool_number, claim_number, weight, nodes, used_from, 0, 0
  from pool_uses
  where is_family
  union all
  select pool_number, claim_number, weight, nodes, used_to, 0, 0
  from pool_uses
  where is_family
  union all
  select pool_number, claim_number, 0, 0, held_from, 0, 1
  from held
  union all
  select pool_number, claim_number, 0, 0, held_to, 0, -1
  from held
),
marks as (
  select pool_number, claim_number, mark, max(weight) as weight, max(nodes) as nodes, cast(sum(change) as int64) as change, cast(sum(held_change) as int64) as held_change
  from changes
  group by pool_number, claim_number, mark
),
counted as (
  select
    pool_number, claim_number, mark,
    max(weight) over (partition by pool_number, claim_number) as weight, max(nodes) over (partition by pool_number, claim_number) as nodes,
    cast(sum(change) over w as int64) as members, cast(sum(held_change) over w as int64) as holders
  from marks
  window w as (partition by pool_number, claim_number order by mark rows between unbounded preceding and current row)
)
select
  pool_number, claim_number, mark, members,
  -- Whole nodes and units, rounded up, because a run that shares a node with others still asks for one.
  case when members > 0 then div((weight * members + members + holders - 1), members + holders) else 0 end as weight,
  case when members > 0 then div((nodes * members + members + holders - 1), members + holders) else 0 end as nodes
from counted
