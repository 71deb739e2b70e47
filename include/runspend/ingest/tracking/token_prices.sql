-- The calls with tokens but without a cost in MLflow, from `raw_traces` and `raw_spans`: one row per span with a model and tokens.
-- The trace of such a span has no cost, or a cost that comes from other spans. A span below a span with a cost or tokens is part of that
-- span, as in MLflow's own sum. A span above a span with a cost is not priced, because its tokens may include those of the span below.
create or replace temp table unpriced_calls as
with recursive down as (
  select s.trace_id, s.span_id, s.model, s.provider, s.usage, s.cost, false as is_covered
  from raw_spans s
  where not exists (select 1 from raw_spans p where p.trace_id = s.trace_id and p.span_id = s.parent_id)
  union all
  select s.trace_id, s.span_id, s.model, s.provider, s.usage, s.cost, p.is_covered or p.cost >= 0 or p.usage <> ''
  from down p join raw_spans s on s.trace_id = p.trace_id and s.parent_id = p.span_id
),
above as (
  select trace_id, parent_id as span_id from raw_spans where cost >= 0
  union
  select s.trace_id, s.parent_id from above a join raw_spans s on s.trace_id = a.trace_id and s.span_id = a.span_id
),
costed as (
  select distinct trace_id from raw_spans where cost >= 0
)
select d.trace_id, d.model, d.provider, d.usage, cast(coalesce(instant_utc(t.start_ms), timestamp '1970-01-01') as date) as day
from down d
join raw_traces t on t.trace_id = d.trace_id
left join above a on a.trace_id = d.trace_id and a.span_id = d.span_id
left join costed c on c.trace_id = d.trace_id
where d.cost < 0 and d.usage <> '' and d.model <> '' and not d.is_covered and a.span_id is null
  and (t.total_cost is null or c.trace_id is not null)
