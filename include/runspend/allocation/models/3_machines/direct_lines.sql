-- one row per bill line and target, for lines that one of the first three rules allocates, and for lines that no rule can allocate.
-- The target is a run, idle time or a kind of shared cost; its share is a range between 0 and 1.
with lines as (
  select
    l.*,
    l.is_inside and l.allocated_by not in ('rest', 'job_id') and not l.is_offered as is_direct,
    -- Declared as shared cost, without a tag or job that takes precedence. The part of a declared machine that no run claims stays shared.
    coalesce(l.scope, '') = 'shared' and l.allocated_by in ('none', 'resource_id') as is_declared,
    case when l.is_inside and l.allocated_by = 'resource_id' then l.resource_key end as slot_resource_key,
    case when l.allocated_by = 'run_tag' then l.resource_key end as rented_resource_key
  from ledger_lines l
),
job_lines as (
  -- Costs are converted here, before the join repeats each line for every target.
  select
    *,
    cast(cast(list_cost as string) as float64) as list_float, cast(cast(contracted_cost as string) as float64) as contracted_float,
    cast(cast(effective_cost as string) as float64) as effective_float, cast(cast(billed_cost as string) as float64) as billed_float
  from ledger_lines
  where is_inside and allocated_by = 'job_id'
)
select
  l.source, l.billing_period, l.line_id as charge_id, l.charge_date, l.charge_period_start, l.charge_period_end, l.service_provider_name,
  l.billing_account_id, l.sub_account_id, l.region_id, l.service_name, l.charge_category, l.resource_id, l.invoice_id, l.cost_kind,
  l.billing_currency, l.list_cost, l.contracted_cost, l.effective_cost, l.billed_cost,
  'run' as allocated_to, j.tracking_server, j.workspace, j.run_id, cast(null as string) as owner_id,
  'job_id' as match_method, case when j.is_by_machine then 'high' else 'exact' end as confidence, case when j.is_ambiguous then 'ambiguous_name' end as reason, cast(null as string) as pool_key,
  j.weight_kind, j.run_end_rule, j.is_scaled, j.ratio_from, j.ratio_to, j.is_last,
  l.list_float, l.contracted_float, l.effective_float, l.billed_float,
  1.0 as charge_part,
  -- The part of the job's machine that its only run did not request, as a share of the line, without overhead.
  case
    when j.runs_in_window > 1 then cast(null as float64)
    when j.gpu_count is not null and u.machine_gpus is not null then greatest(0.0, 1.0 - j.gpu_count / u.machine_gpus)
    when j.cpu_request is not null and u.machine_cpus is not null then greatest(0.0, 1.0 - j.cpu_request / u.machine_cpus)
    when j.memory_request_gb is not null and u.machine_memory_gb is not null then greatest(0.0, 1.0 - j.memory_request_gb / u.machine_memory_gb)
  end * (j.ratio_to - j.ratio_from - j.overhead_ratio) as unused_ratio,
  j.overhead_ratio,
  l.line_team, l.line_project, l.line_cost_center, l.line_owner
from job_lines l
join job_targets j
  on j.job_key = l.job_key and j.charge_period_start = l.charge_period_start and j.charge_period_end = l.charge_period_end
left join machine_units u on u.resource_key = l.resource_key and u.month = l.month
union all
select
  l.source, l.billing_period, l.line_id as charge_id, l.charge_date, l.charge_period_start, l.charge_period_end, l.service_provider_name,
  l.billing_account_id, l.sub_account_id, l.region_id, l.service_name, l.charge_category, l.resource_id, l.invoice_id, l.cost_kind,
  l.billing_currency, l.list_cost, l.contracted_cost, l.effective_cost, l.billed_cost,
  case
    when g.run_tag is not null then 'run'
    when l.allocated_by = 'run_tag' then 'unallocated'
    when t.allocated_to = 'run' then 'run'
    when l.line_kind = 'fee' or l.is_declared then 'shared'
    when t.resource_key is not null then t.allocated_to
    when l.line_kind = 'unused' then 'idle'
    when l.line_kind = 'timed' and l.is_known then 'idle'
    else 'unallocated'
  end as allocated_to,
  coalesce(g.tracking_server, t.tracking_server) as tracking_server,
  coalesce(g.workspace, t.workspace) as workspace,
  coalesce(g.run_id, t.run_id) as run_id,
  cast(null as string) as owner_id,
  case
    when l.allocated_by = 'run_tag' then 'run_tag'
    when t.allocated_to = 'run' then 'resource_id'
    when l.is_declared then 'none'
    when l.line_kind = 'unused' then 'pool_time'
    when t.resource_key is not null or (l.line_kind = 'timed' and l.is_known) then 'resource_id'
    else 'none'
  end as match_method,
  case
    when l.allocated_by = 'run_tag' then 'exact'
    when t.allocated_to = 'run' then 'high'
    when l.is_declared then cast(null as string)
    when l.line_kind = 'unused' then 'medium'
    when t.resource_key is not null or (l.line_kind = 'timed' and l.is_known) then 'high'
  end as confidence,
  case
    when g.is_ambiguous then 'ambiguous_name'
    -- A tag is a claim. The tagged run gets the cost even if it was not active at that time or its machines are in another place. The reason
    -- records this.
    when l.charge_period_end <= g.start_time or l.charge_period_start >= greatest(g.end_time, timestamp_add(g.start_time, interval 1 microsecond)) then 'other_time'
    when l.sub_account_id <> g.sub_account_id then 'other_account'
    when l.region_id <> g.region_id and lower(l.region_id) <> 'global' then 'other_region'
    when g.run_tag is not null then cast(null as string)
    when l.allocated_by = 'run_tag' then 'unknown_run'
    when t.allocated_to = 'run' then case when t.is_ambiguous then 'ambiguous_name' end
    when l.is_declared then 'platform'
    when t.is_ambiguous then 'ambiguous_name'
    when l.line_kind = 'fee' then 'fee'
    when l.line_kind in ('timed', 'unused') then 'no_run'
    else 'not_timed'
  end as reason,
  case when l.line_kind = 'unused' and l.run_tag is null and not l.is_declared then l.pool_key end as pool_key, t.weight_kind, t.run_end_rule,
  coalesce(t.is_scaled, false) as is_scaled,
  coalesce(t.ratio_from, 0.0) as ratio_from,
  coalesce(t.ratio_to, 1.0) as ratio_to,
  coalesce(t.is_last, true) as is_last,
  -- Converting decimals to floats is slow, so only lines with several targets are converted.
  case when t.ratio_from > 0 or not t.is_last then cast(cast(l.list_cost as string) as float64) end as list_float,
  case when t.ratio_from > 0 or not t.is_last then cast(cast(l.contracted_cost as string) as float64) end as contracted_float,
  case when t.ratio_from > 0 or not t.is_last or l.allocated_by = 'run_tag' then cast(cast(l.effective_cost as string) as float64) end as effective_float,
  case when t.ratio_from > 0 or not t.is_last then cast(cast(l.billed_cost as string) as float64) end as billed_float,
  1.0 as charge_part,
  -- The part of a machine rented for the run that the run did not request, as a share of the line.
  case
    when g.gpu_count is not null and u.machine_gpus is not null then greatest(0.0, 1.0 - g.gpu_count / u.machine_gpus)
    when g.cpu_request is not null and u.machine_cpus is not null then greatest(0.0, 1.0 - g.cpu_request / u.machine_cpus)
    when g.memory_request_gb is not null and u.machine_memory_gb is not null then greatest(0.0, 1.0 - g.memory_request_gb / u.machine_memory_gb)
  end as unused_ratio,
  cast(null as float64) as overhead_ratio,
  l.line_team, l.line_project, l.line_cost_center, l.line_owner
from lines l
left join tagged_runs g on g.run_tag = l.run_tag
left join slot_targets t
  on t.resource_key = l.slot_resource_key and t.charge_period_start = l.charge_period_start and t.charge_period_end = l.charge_period_end
  -- The rules that price lines together allocate the rest of an offered line.
  and (t.allocated_to = 'run' or not l.is_offered)
left join machine_units u on u.resource_key = l.rented_resource_key and u.month = l.month
-- This condition is redundant, because a line with a target is always direct. Without it, an engine would filter lines before the join and
-- estimate far too few rows. It would then build its hash table from the lines, which is five times as large as one from the targets.
where l.is_direct or t.resource_key is not null
