-- one row per run, machine and time range in which the run had the machine, from the last billed hour of the machine until @now.
-- Runs without a machine share one with their family.
with families as (
  -- Families with a run that asks for machines without naming them. Time that descendants cover does not belong to the run, no matter which
  -- machine they used.
  select distinct m.family
  from estimate_families m
  join estimate_claims c on c.tracking_server = m.tracking_server and c.run_id = m.run_id
  where c.priced_as is not null
),
allocated as (
  select tracking_server, run_id, max(own_until) as own_until, max(family_until) as family_until
  from estimate_allocated
  group by tracking_server, run_id
),
allocated_machines as (
  -- Machines that are not on any bill yet, but whose runs have cost by another rule.
  select s.resource_key, a.family, max(a.own_until) as own_until
  from estimate_stated s
  join estimate_allocated a on a.tracking_server = s.tracking_server and a.run_id = s.run_id
  join estimate_machines m on m.resource_key = s.resource_key and m.account is null
  group by s.resource_key, a.family
),
machines as (
  select
    s.tracking_server, s.run_id, s.resource_key, s.used_from, s.used_to, s.is_ambiguous,
    greatest(m.billed_until, coalesce(a.own_until, m.billed_until)) as billed_until
  from estimate_stated s
  join estimate_machines m on m.resource_key = s.resource_key
  join estimate_families f on f.tracking_server = s.tracking_server and f.run_id = s.run_id
  left join allocated_machines a on a.resource_key = s.resource_key and a.family = f.family
  union all
  -- The frontier of a type is the earliest one of its accounts. The ledger may have later hours.
  select
    m.tracking_server, m.run_id, m.family, cast(null as timestamp), cast(null as timestamp), false,
    greatest(
      coalesce(p.billed_until, @window_start), coalesce(a.own_until, @window_start),
      coalesce(case when coalesce(p.source, 'rates') = 'rates' then a.family_until else b.family_until end, @window_start))
  from estimate_families m
  join families f on f.family = m.family
  left join estimate_claims c on c.tracking_server = m.tracking_server and c.run_id = m.run_id
  left join estimate_machines p on p.resource_key = c.priced_as
  left join allocated a on a.tracking_server = m.tracking_server and a.run_id = m.run_id
  left join estimate_allocated b on b.tracking_server = m.tracking_server and b.run_id = m.run_id and b.source = p.source
),
spans as (
  select
    r.tracking_server, r.workspace, r.run_id, m.resource_key, m.is_ambiguous, r.gpu_count, r.cpu_request, r.memory_request_gb, r.mean_use_percent,
    greatest(coalesce(m.used_from, r.start_time), r.start_time, m.billed_until) as span_start,
    least(
      @now,
      coalesce(m.used_to, timestamp '9999-01-01 00:00:00+00'),
      run_end(coalesce(r.end_time, m.used_to), r.last_sign_at, r.start_time, @now)) as span_end,
    coalesce(r.run_end_rule, run_end_rule(coalesce(r.end_time, m.used_to), r.last_sign_at, r.start_time, @now)) as run_end_rule
  from machines m
  join window_runs r on r.tracking_server = m.tracking_server and r.run_id = m.run_id
  where r.start_time is not null
),
marked as (
  -- Merge overlapping time ranges of a run on one machine, so that the run counts once.
  select
    tracking_server, workspace, run_id, resource_key, is_ambiguous, span_start, span_end, gpu_count, cpu_request, memory_request_gb, mean_use_percent, run_end_rule,
    coalesce(span_start > max(span_end) over (
      partition by tracking_server, run_id, resource_key
      order by span_start, span_end
      rows between unbounded preceding and 1 preceding), true) as begins
  from spans
  where span_end > span_start
),
numbered as (
  select
    tracking_server, workspace, run_id, resource_key, is_ambiguous, span_start, span_end, gpu_count, cpu_request, memory_request_gb, mean_use_percent, run_end_rule,
    sum(case when begins then 1 else 0 end) over (
      partition by tracking_server, run_id, resource_key
      order by span_start, span_end
      rows between unbounded preceding and current row) as stretch
  from marked
)
select
  tracking_server, workspace, run_id, resource_key, min(span_start) as span_start, max(span_end) as span_end, min(run_end_rule) as run_end_rule, logical_or(is_ambiguous) as is_ambiguous,
  max(gpu_count) as gpu_count, max(cpu_request) as cpu_request, max(memory_request_gb) as memory_request_gb, max(mean_use_percent) as mean_use_percent
from numbered
group by tracking_server, workspace, run_id, resource_key, stretch
