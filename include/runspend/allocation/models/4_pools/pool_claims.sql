-- one row per run, pool and time range in which the run asks for machines of the pool. In this time range, no descendant covers the run, and it
-- does not have all its machines.
with asks as (
  select tracking_server, workspace, run_id, pool_number, kind_number, span_start as ask_start, span_end as ask_end, cast(null as int64) as nodes_left, coalesce(num_nodes, 1) > 1 as is_several
  from pool_spans
  union all
  -- Claims in addition to the machines that the run already has.
  select h.tracking_server, h.workspace, h.run_id, h.pool_number, p.kind_number, h.held_from, h.held_to, h.nodes_left, true
  from pool_held h
  join pools p on p.pool_number = h.pool_number
  where h.nodes_left > 0
),
covers as (
  select
    p.tracking_server, p.run_id, p.pool_number, p.nodes_left, p.ask_start,
    greatest(c.span_start, p.ask_start) as cover_start, least(c.span_end, p.ask_end) as cover_end
  from run_ancestors f
  join asks p on p.tracking_server = f.tracking_server and p.run_id = f.ancestor_id
  join pool_spans c on c.tracking_server = f.tracking_server and c.run_id = f.run_id and c.kind_number = p.kind_number
    and c.span_start < p.ask_end and c.span_end > p.ask_start
  union all
  -- A descendant uses a machine of the pool that it states, even if the descendant itself is not in the pool.
  select p.tracking_server, p.run_id, p.pool_number, p.nodes_left, p.ask_start, greatest(c.span_start, p.ask_start), least(c.span_end, p.ask_end)
  from run_ancestors f
  join asks p on p.tracking_server = f.tracking_server and p.run_id = f.ancestor_id
  join (select distinct tracking_server, run_id from stated_machines) s on s.tracking_server = f.tracking_server and s.run_id = f.run_id
  join run_spans c on c.tracking_server = f.tracking_server and c.run_id = f.run_id and c.span_start < p.ask_end and c.span_end > p.ask_start
  join (
    select distinct m.resource_key, k.kind_number
    from offered_machines m
    join pools k on k.match_method = m.match_method and k.target_key = m.target_key
  ) m on m.resource_key = c.resource_key and m.kind_number = p.kind_number
  where not p.is_several
  union all
  -- Time with a separate claim: the run states its own machines, or lines are tagged with its id.
  select p.tracking_server, p.run_id, p.pool_number, p.nodes_left, p.ask_start, greatest(h.held_from, p.ask_start), least(h.held_to, p.ask_end)
  from pool_held h
  join asks p on p.tracking_server = h.tracking_server and p.run_id = h.run_id and p.pool_number = h.pool_number
    and h.held_from < p.ask_end and h.held_to > p.ask_start
  where p.nodes_left is null or h.nodes_left = 0
  union all
  -- A run asks for nothing while it is stopped.
  select p.tracking_server, p.run_id, p.pool_number, p.nodes_left, p.ask_start, greatest(g.gap_start, p.ask_start), least(g.gap_end, p.ask_end)
  from run_gaps g
  join asks p on p.tracking_server = g.tracking_server and p.workspace = g.workspace and p.run_id = g.run_id
    and g.gap_start < p.ask_end and g.gap_end > p.ask_start
  union all
  select tracking_server, run_id, pool_number, nodes_left, ask_start, ask_end, ask_end
  from asks
),
gaps as (
  select
    tracking_server, run_id, pool_number, nodes_left,
    cover_start as interval_end,
    coalesce(
      max(cover_end) over (
        partition by tracking_server, run_id, pool_number, nodes_left, ask_start
        order by cover_start, cover_end
        rows between unbounded preceding and 1 preceding),
      ask_start) as interval_start
  from covers
),
shared_claims as (
  -- A run with its own machines still counts as a member of a shared claim, because the claim of the other members becomes smaller.
  select distinct s.pool_number, s.tracking_server, s.claim_run_id
  from pool_spans s
  join (
    select tracking_server, run_id, pool_number from pool_held where nodes_left = 0
    union distinct
    select s.tracking_server, s.run_id, s.pool_number
    from pool_spans s
    join claimed_runs c on c.tracking_server = s.tracking_server and c.workspace = s.workspace and c.run_id = s.run_id
  ) m on m.tracking_server = s.tracking_server and m.run_id = s.run_id and m.pool_number = s.pool_number
  where s.run_id <> s.claim_run_id
),
own as (
  select
    s.tracking_server, s.workspace, s.run_id, s.pool_number, s.kind_number, s.claim_run_id, s.run_end_rule, g.interval_start, g.interval_end,
    s.num_nodes, coalesce(g.nodes_left, s.num_nodes) as asked_nodes, s.gpu_count, s.cpu_request, s.memory_request_gb, s.mean_use_percent,
    min(s.run_id) over claim <> max(s.run_id) over claim or h.claim_run_id is not null as is_family
  from gaps g
  join pool_spans s on s.tracking_server = g.tracking_server and s.run_id = g.run_id and s.pool_number = g.pool_number
  left join shared_claims h on h.pool_number = s.pool_number and h.tracking_server = s.tracking_server and h.claim_run_id = s.claim_run_id
  left join claimed_runs c on c.tracking_server = s.tracking_server and c.workspace = s.workspace and c.run_id = s.run_id
  where g.interval_start < g.interval_end and c.run_id is null
  window claim as (partition by s.pool_number, s.tracking_server, s.claim_run_id)
),
have as (
  -- A kind of weight is used only if this unit is known for every machine of the pool or type.
  select
    p.kind_number, min(m.window_start) as billed_from, max(m.window_end) as billed_until,
    case when countif(m.machine_gpus is null) = 0 then max(m.machine_gpus) end as machine_gpus,
    case when countif(m.machine_cpus is null) = 0 then max(m.machine_cpus) end as machine_cpus,
    case when countif(m.machine_memory_gb is null) = 0 then max(m.machine_memory_gb) end as machine_memory_gb
  from pool_machines m
  join pools p on p.pool_number = m.pool_number
  group by p.kind_number
),
stated as (
  select
    o.kind_number,
    countif(o.gpu_count is null) = 0 and max(o.gpu_count) > 0 as all_gpus, countif(o.gpu_count > 0) > 0 as some_gpus, countif(o.cpu_request is null) = 0 as all_cpus,
    countif(o.memory_request_gb is null) = 0 as all_memory, countif(o.mean_use_percent is null) = 0 as all_use,
    countif(o.cpu_request is not null) > 0 as some_cpus, countif(o.memory_request_gb is not null) > 0 as some_memory,
    -- The largest unit of which all weights are whole multiples. Small weights cause less rounding. Slices of a GPU (MIG) are sevenths.
    case
      when min(o.gpu_count) >= 1 and max(mod(cast(round(o.gpu_count * 100) as int64), 100)) = 0 then 1
      when min(o.gpu_count) > 0 and max(abs(o.gpu_count * 7 - round(o.gpu_count * 7))) < 0.000001 then 7
      when min(o.gpu_count) > 0 and max(abs(o.gpu_count * 16 - round(o.gpu_count * 16))) < 0.000001 then 16
      when max(abs(o.gpu_count * 100 - round(o.gpu_count * 100))) < 0.000001 then 100
      else 5600
    end as gpu_scale,
    case when min(o.cpu_request) >= 1 and max(mod(cast(round(o.cpu_request * 10) as int64), 10)) = 0 then 1 else 10 end as cpu_scale
  from own o
  left join have h on h.kind_number = o.kind_number
  where h.billed_from is null or (o.interval_start < h.billed_until and o.interval_end > h.billed_from)
  group by o.kind_number
),
kinds as (
  -- One kind of weight for all claims on a pool in the period. Kinds whose units the machines state are preferred; otherwise, it is any kind
  -- that all runs state. It is used when there are fewer machines than claims.
  -- A run that does not state its units asks for whole machines.
  select
    s.kind_number, s.gpu_scale, s.cpu_scale, h.machine_gpus, h.machine_cpus, h.machine_memory_gb,
    case
      when p.match_method = 'instance_type_time' then case when s.some_gpus and h.machine_gpus is not null then 'gpu' else 'equal' end
      when s.all_gpus and h.machine_gpus is not null then 'gpu'
      when s.all_cpus and h.machine_cpus is not null then 'cpu'
      when s.all_memory and h.machine_memory_gb is not null then 'memory'
      when s.some_gpus and h.machine_gpus is not null then 'gpu'
      when s.some_cpus and h.machine_cpus is not null then 'cpu'
      when s.some_memory and h.machine_memory_gb is not null then 'memory'
      when s.all_gpus then 'gpu'
      when s.all_cpus then 'cpu'
      when s.all_memory then 'memory'
      when s.all_use then 'use'
      else 'equal'
    end as weight_kind
  from stated s
  join pools p on p.pool_number = s.kind_number
  left join have h on h.kind_number = s.kind_number
),
units as (
  select
    kind_number, weight_kind, gpu_scale, cpu_scale, machine_gpus, machine_cpus, machine_memory_gb,
    case weight_kind when 'gpu' then gpu_scale when 'cpu' then cpu_scale else 1 end as unit_scale,
    -- Units of the largest machine. Null: unknown.
    case weight_kind
      when 'gpu' then machine_gpus * gpu_scale
      when 'cpu' then machine_cpus * cpu_scale
      when 'memory' then cast(ceil(machine_memory_gb) as int64)
    end as machine_units
  from kinds
),
weighed as (
  select
    o.tracking_server, o.workspace, o.run_id, o.pool_number, o.claim_run_id, o.is_family, o.run_end_rule, o.interval_start, o.interval_end,
    coalesce(k.weight_kind, 'equal') as weight_kind, coalesce(k.unit_scale, 1) as unit_scale, k.machine_units,
    least(1000, greatest(1, coalesce(o.num_nodes, 1))) as all_nodes,
    least(1000, greatest(1, coalesce(o.asked_nodes, 1))) as nodes,
    greatest(1, case k.weight_kind
      when 'gpu' then least(
        100 * k.gpu_scale, greatest(div(k.gpu_scale, 100), cast(round(coalesce(o.gpu_count, k.machine_gpus, 1) * k.gpu_scale) as int64)))
      when 'cpu' then least(1000 * k.cpu_scale, cast(round(coalesce(o.cpu_request, k.machine_cpus, 1) * k.cpu_scale) as int64))
      when 'memory' then least(10000, cast(ceil(coalesce(o.memory_request_gb, k.machine_memory_gb, 1)) as int64))
      when 'use' then least(100, cast(round(coalesce(o.mean_use_percent, 1)) as int64))
      else 1
    end) as node_weight,
    k.machine_units is not null and p.match_method = 'pool_time' and case k.weight_kind
      when 'gpu' then o.gpu_count is null
      when 'cpu' then o.cpu_request is null
      when 'memory' then o.memory_request_gb is null
      else false
    end as is_unknown,
    p.match_method
  from own o
  left join units k on k.kind_number = o.kind_number
  join pools p on p.pool_number = o.pool_number
)
select
  pool_number,
  dense_rank() over (order by tracking_server, workspace, run_id) as run_number,
  -- Members of a family that ask for different numbers of additional machines do not share a claim.
  dense_rank() over (order by tracking_server, claim_run_id, nodes) as claim_number,
  tracking_server, workspace, run_id, claim_run_id, is_family, run_end_rule, interval_start, interval_end, weight_kind, unit_scale,
  machine_units is not null as has_units, is_unknown,
  nodes,
  -- GPUs of several nodes are limited to the GPUs of each node. For an instance type, the limit is one whole machine per node.
  nodes * case
    when machine_units is not null and (all_nodes > 1 or match_method = 'instance_type_time') then least(node_weight, machine_units)
    else node_weight
  end as weight,
  -- True if the run asks for more than all nodes have together. A run that states its total for each node does not ask for more.
  coalesce((all_nodes > 1 or match_method = 'instance_type_time') and node_weight > all_nodes * machine_units, false) as is_capped
from weighed
