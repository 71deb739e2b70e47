-- one row per run, machine, month of its charges, and time range that no descendant of the run covers on that machine, without the run's gaps.
-- A machine has a separate number for each of these months, because a refund is split by the runs of its own month.
with covers as (
  select
    p.tracking_server, p.workspace, p.run_id, p.resource_key, p.run_end_rule, p.is_ambiguous, p.gpu_count, p.cpu_request, p.memory_request_gb, p.mean_use_percent, p.span_start, p.span_end,
    greatest(c.span_start, p.span_start) as cover_start, least(c.span_end, p.span_end) as cover_end
  from run_ancestors f
  join run_spans p on p.tracking_server = f.tracking_server and p.run_id = f.ancestor_id
  join run_spans c on c.tracking_server = f.tracking_server and c.run_id = f.run_id and c.resource_key = p.resource_key
    and c.span_start < p.span_end and c.span_end > p.span_start
  union all
  -- The time during which a run was stopped does not belong to the run, nor to its parents.
  select
    p.tracking_server, p.workspace, p.run_id, p.resource_key, p.run_end_rule, p.is_ambiguous, p.gpu_count, p.cpu_request, p.memory_request_gb, p.mean_use_percent, p.span_start, p.span_end,
    greatest(g.gap_start, p.span_start), least(g.gap_end, p.span_end)
  from run_gaps g
  join run_spans p on p.tracking_server = g.tracking_server and p.workspace = g.workspace and p.run_id = g.run_id
    and g.gap_start < p.span_end and g.gap_end > p.span_start
  union all
  select
    tracking_server, workspace, run_id, resource_key, run_end_rule, is_ambiguous, gpu_count, cpu_request, memory_request_gb, mean_use_percent, span_start, span_end,
    span_end, span_end
  from run_spans
),
gaps as (
  select
    tracking_server, workspace, run_id, resource_key, run_end_rule, is_ambiguous, gpu_count, cpu_request, memory_request_gb, mean_use_percent,
    cover_start as interval_end,
    coalesce(
      max(cover_end) over (
        partition by tracking_server, run_id, resource_key, span_start, span_end
        order by cover_start, cover_end
        rows between unbounded preceding and 1 preceding),
      span_start) as interval_start
  from covers
),
own as (
  select
    tracking_server, workspace, run_id, resource_key, run_end_rule, is_ambiguous, gpu_count, cpu_request, memory_request_gb, mean_use_percent, interval_start, interval_end
  from gaps
  where interval_start < interval_end
),
deciders as (
  select
    o.resource_key, coalesce(u.month, @period) as month, o.gpu_count, o.cpu_request, o.memory_request_gb, o.mean_use_percent,
    -- Runs of other months do not influence how this month's runs are weighted.
    u.billed_from is null or (o.interval_start < u.billed_until and o.interval_end > u.billed_from) as is_of_the_month,
    coalesce(u.is_several, false) as is_several
  from own o
  left join machine_units u on u.resource_key = o.resource_key
),
kinds as (
  -- All runs on the machine in the month use the same kind of weight: what every run asks for, otherwise what some ask for, otherwise measured use.
  select
    resource_key, month,
    logical_or(is_several) as is_several,
    case
      -- If no run asks for a GPU, there is no GPU to share.
      when countif(gpu_count is null) = 0 and max(gpu_count) > 0 then 'gpu'
      when countif(cpu_request is null) = 0 then 'cpu'
      when countif(memory_request_gb is null) = 0 then 'memory'
      when max(gpu_count) > 0 then 'gpu'
      when countif(cpu_request is not null) > 0 then 'cpu'
      when countif(memory_request_gb is not null) > 0 then 'memory'
      when countif(mean_use_percent is not null) > 0 then 'use'
      else 'equal'
    end as weight_kind,
    -- While any active run does not state this weight, the other kind is used for all runs on the machine.
    case when countif(mean_use_percent is null) = 0 then 'use' else 'equal' end as other_kind,
    -- The largest unit of which all weights are whole multiples. Small weights cause less rounding. Slices of a GPU (MIG) are sevenths.
    case
      when min(gpu_count) >= 1 and max(mod(cast(round(gpu_count * 100) as int64), 100)) = 0 then 1
      when min(gpu_count) > 0 and max(abs(gpu_count * 7 - round(gpu_count * 7))) < 0.000001 then 7
      when min(gpu_count) > 0 and max(abs(gpu_count * 16 - round(gpu_count * 16))) < 0.000001 then 16
      when max(abs(gpu_count * 100 - round(gpu_count * 100))) < 0.000001 then 100
      else 5600
    end as gpu_scale,
    case when min(cpu_request) >= 1 and max(mod(cast(round(cpu_request * 10) as int64), 10)) = 0 then 1 else 10 end as cpu_scale,
    -- From here on, small integers replace machines and runs, because they sort and join much faster than names.
    dense_rank() over (order by resource_key, month) as machine_number
  from deciders
  group by resource_key, month, is_of_the_month
  -- If no run is active in the billed time, all other runs decide the kind of weight.
  qualify row_number() over (partition by resource_key, month order by is_of_the_month desc) = 1
),
nodes as (
  select distinct tracking_server, workspace, run_id, least(num_nodes, 10000) as num_nodes
  from window_runs
  where num_nodes > 1
),
weighed as (
  select
    k.machine_number, k.month, o.tracking_server, o.workspace, o.run_id, o.resource_key, o.run_end_rule, o.is_ambiguous, o.interval_start, o.interval_end, k.is_several, k.weight_kind, k.other_kind,
    case k.weight_kind when 'gpu' then k.gpu_scale when 'cpu' then k.cpu_scale else 1 end as unit_scale,
    case k.weight_kind
      when 'gpu' then o.gpu_count is null
      when 'cpu' then o.cpu_request is null
      when 'memory' then o.memory_request_gb is null
      when 'use' then o.mean_use_percent is null
      else false
    end as is_unknown,
    case k.weight_kind
      when 'gpu' then least(100 * k.gpu_scale, greatest(div(k.gpu_scale, 100), cast(round(coalesce(o.gpu_count, 1) * k.gpu_scale) as int64)))
      when 'cpu' then least(1000 * k.cpu_scale, cast(round(coalesce(o.cpu_request, 1) * k.cpu_scale) as int64))
      when 'memory' then least(10000, cast(ceil(coalesce(o.memory_request_gb, 1)) as int64))
      when 'use' then least(100, cast(round(coalesce(o.mean_use_percent, 0)) as int64))
      else 1
    end as weight,
    coalesce(n.num_nodes, 1) as nodes,
    case when k.other_kind = 'use' then greatest(1, least(100, cast(round(coalesce(o.mean_use_percent, 0)) as int64))) else 1 end as other_weight,
    case k.weight_kind
      when 'gpu' then u.machine_gpus * k.gpu_scale
      when 'cpu' then u.machine_cpus * k.cpu_scale
      when 'memory' then cast(ceil(u.machine_memory_gb) as int64)
    end as units
  from own o
  join kinds k on k.resource_key = o.resource_key
  left join machine_units u on u.resource_key = k.resource_key and u.month = k.month
  left join nodes n on k.is_several and n.tracking_server = o.tracking_server and n.workspace = o.workspace and n.run_id = o.run_id
)
select
  machine_number,
  dense_rank() over (order by tracking_server, run_id, workspace) as run_number,
  tracking_server, workspace, run_id, resource_key, month, run_end_rule, is_ambiguous, interval_start, interval_end,
  is_several, case when is_several and units is null then 'equal' else weight_kind end as weight_kind, other_kind, is_unknown and not is_several as is_unknown, unit_scale,
  -- A run that does not state its weight may use the whole machine. If there are several machines, a run uses a part of each of its nodes.
  case
    when not is_several then greatest(1, case when is_unknown then coalesce(units, 1) else weight end)
    when is_unknown or units is null then nodes * coalesce(units, 1)
    else nodes * greatest(1, least(weight, units))
  end as weight,
  other_weight,
  -- There is room for 10,000 machines, because the bill determines how many there are.
  case when is_several then 10000 * coalesce(units, 1) else units end as units
from weighed
