-- one row per run and time range in which it may have called language models as its principal.
-- `is_own`: the time that its children do not cover. `is_calling`: its whole time, because traces show which run made the calls.
with parents as (
  select distinct p.tracking_server, p.workspace, p.run_id, p.resource_key, p.run_end_rule, p.span_start, p.span_end
  from run_ancestors f
  join run_spans p on p.tracking_server = f.tracking_server and p.run_id = f.ancestor_id
  join run_spans c on c.tracking_server = f.tracking_server and c.run_id = f.run_id and c.resource_key = p.resource_key
    and c.span_start < p.span_end and c.span_end > p.span_start
),
starts as (
  -- A run makes no calls while it is stopped. Each piece of time begins at the start of the span or after a gap.
  select tracking_server, workspace, run_id, resource_key, run_end_rule, span_start, span_end, span_start as piece_start, cast(null as timestamp) as gap_start
  from parents
  union all
  select p.tracking_server, p.workspace, p.run_id, p.resource_key, p.run_end_rule, p.span_start, p.span_end, g.gap_end, g.gap_start
  from parents p
  join run_gaps g on g.tracking_server = p.tracking_server and g.workspace = p.workspace and g.run_id = p.run_id
    and g.gap_start < p.span_end and g.gap_end > p.span_start
),
pieces as (
  select
    tracking_server, workspace, run_id, resource_key, run_end_rule, piece_start,
    coalesce(lead(gap_start) over (partition by tracking_server, workspace, run_id, resource_key, span_start order by piece_start, gap_start), span_end) as piece_end
  from starts
)
select
  i.resource_key as principal_key, i.tracking_server, i.workspace, i.run_id, i.run_end_rule, i.interval_start, i.interval_end,
  true as is_own, p.run_id is null as is_calling
from run_intervals i
left join parents p on p.tracking_server = i.tracking_server and p.workspace = i.workspace and p.run_id = i.run_id and p.resource_key = i.resource_key
union all
select resource_key, tracking_server, workspace, run_id, run_end_rule, piece_start, piece_end, false, true
from pieces
where piece_end > piece_start
