-- one row per run, pool and time range in which the run has its own machines, stated or tagged with its id: the number of additional nodes that
-- it asks for. If one of its four nodes is stated or tagged, it asks for three.
-- If an id is not a single machine of that pool or type (a cluster, job or pod), the number is unknown, and the run asks for no more.
with stated as (
  select distinct tracking_server, run_id from stated_machines
),
several as (
  -- Runs with several nodes and their own claim, and runs without stated machines whose ancestor has the claim and has machines.
  select s.tracking_server, s.run_id, s.pool_number, s.num_nodes
  from pool_spans s
  left join stated o on o.tracking_server = s.tracking_server and o.run_id = s.run_id
  left join stated c on c.tracking_server = s.tracking_server and c.run_id = s.claim_run_id
  left join tagged_runs g on g.tracking_server = s.tracking_server and g.run_id = s.claim_run_id
  where s.num_nodes > 1 and (s.claim_run_id = s.run_id or (o.run_id is null and (c.run_id is not null or g.run_id is not null)))
),
tagged_lines as (
  -- A machine with lines tagged with the run's id belongs to the run in the charge periods of these lines.
  select distinct
    g.tracking_server, g.run_id, l.resource_key, l.charge_period_start, l.charge_period_end, l.pool_key, lower(l.instance_type) as instance_type
  from billing_lines l
  join tagged_runs g on g.run_tag = l.run_tag
  where l.billing_period = @period and l.billed_nanoseconds > 0 and l.service_category in ('Compute', 'AI and Machine Learning')
),
inherited as (
  -- A run without its own machine has the machines of its nearest ancestor, if they are in the pool or have the type that it asks for.
  select a.tracking_server, a.run_id, t.resource_key, t.charge_period_start, t.charge_period_end
  from run_ancestors a
  join tagged_lines t on t.tracking_server = a.tracking_server and t.run_id = a.ancestor_id
  join pool_spans s on s.tracking_server = a.tracking_server and s.run_id = a.run_id
    and t.charge_period_start < s.span_end and t.charge_period_end > s.span_start
  join pools p on p.pool_number = s.pool_number
  left join stated o on o.tracking_server = a.tracking_server and o.run_id = a.run_id
  left join tagged_runs g on g.tracking_server = a.tracking_server and g.run_id = a.run_id
  where o.run_id is null and g.run_id is null
    and case when p.match_method = 'pool_time' then p.target_key = t.pool_key else p.instance_type = t.instance_type end
  qualify a.distance = min(a.distance) over (partition by a.tracking_server, a.run_id)
),
tagged as (
  select distinct tracking_server, run_id, resource_key, charge_period_start, charge_period_end from tagged_lines
  union distinct
  select tracking_server, run_id, resource_key, charge_period_start, charge_period_end from inherited
),
named as (
  select m.resource_key
  from run_spans m
  join (select distinct tracking_server, run_id from several) s on s.tracking_server = m.tracking_server and s.run_id = m.run_id
  union distinct
  select t.resource_key
  from tagged t
  join (select distinct tracking_server, run_id from several) s on s.tracking_server = t.tracking_server and s.run_id = t.run_id
  where t.resource_key is not null
),
machines as (
  -- Resources billed as one machine: never for longer than the charge period, except for up to 1% of rounding.
  select l.resource_key, l.pool_key, lower(l.instance_type) as instance_type
  from billing_lines l
  join named n on n.resource_key = l.resource_key
  where l.billing_period = @period and l.charge_category = 'Usage' and l.charge_class is null
    and l.service_category in ('Compute', 'AI and Machine Learning') and (l.billed_nanoseconds > 0 or l.instance_type is not null)
    and l.charge_period_end > l.charge_period_start
    and not regexp_contains(l.resource_key, r'^(arn:[^:]*:eks:[^:]*:[^:]*:pod/|k8s://)')
  group by l.resource_key, l.pool_key, lower(l.instance_type)
  -- A resource that is a job may have several machines. But a machine that a tag assigns to a job is one machine.
  having countif(ends_with(concat('/', lower(l.resource_key)), concat('/', regexp_extract(l.job_key, r'[^/]*$')))) = 0
    and max(coalesce(l.billed_nanoseconds, 0) / (timestamp_diff(l.charge_period_end, l.charge_period_start, microsecond) * 1000.0)) <= 1.01
),
places as (
  select distinct p.pool_number, m.resource_key
  from machines m
  join pools p on p.match_method = 'pool_time' and p.target_key = m.pool_key
  union distinct
  select distinct p.pool_number, m.resource_key
  from machines m
  join pools p on p.match_method = 'instance_type_time' and p.instance_type = m.instance_type
  where m.pool_key is null
),
own as (
  select tracking_server, run_id, resource_key, span_start as own_from, span_end as own_to, false as is_tagged
  from run_spans
  union all
  -- A machine that is both tagged and stated counts once.
  select t.tracking_server, t.run_id, t.resource_key, t.charge_period_start, t.charge_period_end, true
  from tagged t
  left join (select distinct tracking_server, run_id, resource_key from run_spans) s
    on s.tracking_server = t.tracking_server and s.run_id = t.run_id and s.resource_key = t.resource_key
  where s.run_id is null
),
held as (
  select
    s.tracking_server, s.workspace, s.run_id, s.pool_number, s.claim_run_id, o.num_nodes, p.resource_key is not null as is_machine, m.is_tagged,
    greatest(m.own_from, s.span_start) as held_from, least(m.own_to, s.span_end) as held_to
  from pool_spans s
  join own m on m.tracking_server = s.tracking_server and m.run_id = s.run_id and m.own_from < s.span_end and m.own_to > s.span_start
  left join several o on o.tracking_server = s.tracking_server and o.run_id = s.run_id and o.pool_number = s.pool_number
  left join places p on p.pool_number = s.pool_number and p.resource_key = m.resource_key
),
changes as (
  select
    tracking_server, workspace, run_id, pool_number, claim_run_id, num_nodes, held_from as mark,
    case when is_machine then 1 else 0 end as machines, case when is_machine then 0 else 1 end as others
  from held
  where num_nodes is not null
  union all
  select
    tracking_server, workspace, run_id, pool_number, claim_run_id, num_nodes, held_to, case when is_machine then -1 else 0 end, case when is_machine then 0 else -1 end
  from held
  where num_nodes is not null
),
marks as (
  select
    tracking_server, run_id, pool_number, workspace, claim_run_id, num_nodes, mark, cast(sum(machines) as int64) as machines, cast(sum(others) as int64) as others
  from changes
  group by tracking_server, run_id, pool_number, workspace, claim_run_id, num_nodes, mark
),
slices as (
  select
    tracking_server, run_id, pool_number, workspace, claim_run_id, num_nodes, mark, lead(mark) over w as next_mark,
    cast(sum(machines) over (w rows between unbounded preceding and current row) as int64) as machines,
    cast(sum(others) over (w rows between unbounded preceding and current row) as int64) as others
  from marks
  window w as (partition by tracking_server, run_id, pool_number order by mark)
)
select tracking_server, workspace, run_id, pool_number, claim_run_id, held_from, held_to, 0 as nodes_left, is_tagged
from held
where num_nodes is null
union all
select
  tracking_server, workspace, run_id, pool_number, claim_run_id, mark, next_mark,
  case when others > 0 then 0 else greatest(num_nodes - machines, 0) end, false
from slices
where machines + others > 0
