-- one row per run, machine and time range in which the run used the machine, between @window_start and @window_end
with nearest as (
  -- A run that states no machine gets the machines of its nearest ancestor that states any.
  select a.tracking_server, a.run_id, a.ancestor_id
  from run_ancestors a
  join (select distinct tracking_server, run_id from stated_machines) s
    on s.tracking_server = a.tracking_server and s.run_id = a.ancestor_id
  left join (select distinct tracking_server, run_id from stated_machines) own
    on own.tracking_server = a.tracking_server and own.run_id = a.run_id
  where own.run_id is null
  qualify row_number() over (partition by a.tracking_server, a.run_id order by a.distance, a.ancestor_id) = 1
),
inherited as (
  select n.tracking_server, n.run_id, n.ancestor_id, s.resource_key, s.used_from, s.used_to, s.is_ambiguous, lower(r.instance_type) as instance_type
  from nearest n
  join stated_machines s on s.tracking_server = n.tracking_server and s.run_id = n.ancestor_id
  join window_runs r on r.tracking_server = n.tracking_server and r.run_id = n.run_id
),
billed_types as (
  select distinct l.resource_key, lower(l.instance_type) as instance_type
  from billing_lines l
  join (
    select distinct resource_key as named from inherited where instance_type is not null
  ) i on i.named = l.resource_key
  where l.billing_period = @period and l.instance_type is not null
),
jobs_and_pools as (
  -- The jobs and pools of these runs and of their ancestors. A job may be stated in two forms.
  select r.tracking_server, r.run_id, 'job' as name_kind, coalesce(n.billed_key, r.job_key) as name
  from runs r
  join (select tracking_server, run_id from inherited union distinct select tracking_server, ancestor_id from inherited) i
    on i.tracking_server = r.tracking_server and i.run_id = r.run_id
  left join run_names n on n.name_kind = 'job' and n.tracking_server = r.tracking_server and n.run_id = r.run_id and n.stated_key = r.job_key
  where r.job_key is not null
  union distinct
  select r.tracking_server, r.run_id, 'pool', r.pool_key
  from runs r
  join (select tracking_server, run_id from inherited union distinct select tracking_server, ancestor_id from inherited) i
    on i.tracking_server = r.tracking_server and i.run_id = r.run_id
  where r.pool_key is not null
),
stated as (
  -- Jobs and pools that a run states but its ancestor does not.
  select distinct i.tracking_server, i.run_id, i.resource_key, b.name_kind, b.name
  from inherited i
  join jobs_and_pools b on b.tracking_server = i.tracking_server and b.run_id = i.run_id
  left join jobs_and_pools h on h.tracking_server = i.tracking_server and h.run_id = i.ancestor_id and h.name_kind = b.name_kind and h.name = b.name
  where h.name is null
),
held as (
  -- The machines of these jobs and pools on the bill.
  select distinct 'job' as name_kind, l.job_key as name, l.resource_key
  from billing_lines l
  join (select distinct name from stated where name_kind = 'job') s on s.name = l.job_key
  where l.billing_period = @period
  union distinct
  select 'pool', l.pool_key, l.resource_key
  from billing_lines l
  join (select distinct name from stated where name_kind = 'pool') s on s.name = l.pool_key
  where l.billing_period = @period
),
elsewhere as (
  -- If a run states a job or pool of the bill, it did not run on those of its ancestor's machines that are outside the job or pool.
  select s.tracking_server, s.run_id, s.resource_key
  from stated s
  join (select distinct name_kind, name from held) b on b.name_kind = s.name_kind and b.name = s.name
  left join held h on h.name_kind = s.name_kind and h.name = s.name and h.resource_key = s.resource_key
  where h.name is null
  union distinct
  -- If a run asks for an instance type on the bill, it did not run on its ancestor's machine of a different type.
  -- For example, a driver runs on a small machine, and its trials run on large ones.
  select i.tracking_server, i.run_id, i.resource_key
  from inherited i
  join (select distinct lower(instance_type) as wanted_type from billing_lines where billing_period = @period) w on w.wanted_type = i.instance_type
  join billed_types t on t.resource_key = i.resource_key
  group by i.tracking_server, i.run_id, i.resource_key
  having countif(t.instance_type = i.instance_type) = 0
),
machines as (
  select tracking_server, run_id, resource_key, used_from, used_to, is_ambiguous from stated_machines
  union all
  select i.tracking_server, i.run_id, i.resource_key, i.used_from, i.used_to, i.is_ambiguous
  from inherited i
  left join elsewhere e on e.tracking_server = i.tracking_server and e.run_id = i.run_id and e.resource_key = i.resource_key
  where e.run_id is null
),
source_frontiers as (
  -- The time until which each bill covers machines that serve runs. The next period shows which runs were still active at the end of this one.
  -- Charges are grouped by machine first, because looking up the name of every charge would take as long as all other work.
  select l.source, least(max(l.last_end), timestamp_add(@window_end, interval @alive_hours hour)) as billed_until
  from (
    select source, resource_key, max(charge_period_end) as last_end
    from billing_lines
    where billing_period in (@period, cast(date_add(@period, interval 1 month) as date)) and charge_period_end > charge_period_start
      and at_most_a_day(charge_period_start, charge_period_end)
    group by source, resource_key
  ) l
  join (
    select resource_key from run_resources
    union distinct
    select billed_key from matched_names where name_kind = 'machine'
  ) m on m.resource_key = l.resource_key
  group by l.source
),
frontiers as (
  -- Null if a bill has no charges that are split by time. Its machines still serve runs.
  select l.resource_key, max(f.billed_until) as billed_until
  from (
    select source, resource_key from billing_lines where billing_period = @period and resource_key is not null
    union distinct
    select source, resource_key from earlier_machines
  ) l
  left join source_frontiers f on f.source = l.source
  group by l.resource_key
),
ended as (
  select
    r.tracking_server, r.workspace, r.run_id, m.resource_key, r.gpu_count, r.cpu_request, r.memory_request_gb, r.mean_use_percent, m.is_ambiguous,
    greatest(coalesce(m.used_from, r.start_time), r.start_time, @window_start) as span_start,
    least(
      coalesce(m.used_to, timestamp '9999-01-01 00:00:00+00'),
      run_end(coalesce(r.end_time, m.used_to), r.last_sign_at, r.start_time, f.billed_until),
      @window_end) as span_end,
    coalesce(r.run_end_rule, run_end_rule(coalesce(r.end_time, m.used_to), r.last_sign_at, r.start_time, f.billed_until)) as run_end_rule
  from machines m
  join window_runs r on r.tracking_server = m.tracking_server and r.run_id = m.run_id
  join frontiers f on f.resource_key = m.resource_key
  where r.start_time is not null
),
pieces as (
  select
    c.tracking_server, c.workspace, c.run_id, c.resource_key, c.span_start, c.span_end, c.gpu_count, c.cpu_request, c.memory_request_gb, c.mean_use_percent,
    c.run_end_rule, c.is_ambiguous, s.run_id is not null as is_of_several
  from ended c
  left join (
    select tracking_server, run_id, resource_key
    from ended
    where span_end > span_start
    group by tracking_server, run_id, resource_key
    having count(*) > 1
  ) s on s.tracking_server = c.tracking_server and s.run_id = c.run_id and s.resource_key = c.resource_key
  where c.span_end > c.span_start
),
joined as (
  -- Merge overlapping time ranges of a run on one machine, so that the run counts once.
  select
    tracking_server, workspace, run_id, resource_key, span_start, span_end, gpu_count, cpu_request, memory_request_gb, mean_use_percent, run_end_rule, is_ambiguous,
    coalesce(span_start > max(span_end) over (
      partition by tracking_server, run_id, resource_key
      order by span_start, span_end
      rows between unbounded preceding and 1 preceding), true) as begins
  from pieces
  where is_of_several
),
numbered as (
  select
    tracking_server, workspace, run_id, resource_key, span_start, span_end, gpu_count, cpu_request, memory_request_gb, mean_use_percent, run_end_rule, is_ambiguous,
    sum(case when begins then 1 else 0 end) over (
      partition by tracking_server, run_id, resource_key
      order by span_start, span_end
      rows between unbounded preceding and current row) as stretch
  from joined
)
select
  tracking_server, workspace, run_id, resource_key, span_start, span_end, run_end_rule, is_ambiguous, gpu_count, cpu_request, memory_request_gb, mean_use_percent
from pieces
where not is_of_several
union all
select
  tracking_server, workspace, run_id, resource_key, min(span_start), max(span_end),
  min(run_end_rule), logical_or(is_ambiguous), max(gpu_count), max(cpu_request), max(memory_request_gb), max(mean_use_percent)
from numbered
group by tracking_server, workspace, run_id, resource_key, stretch
