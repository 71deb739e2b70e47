-- one row per bill line and target, for the lines settled by the first three rules or by none: the run, idle time or pot it goes to, as two ends of a line from 0 to 1
with lines as (
  select
    *,
    is_inside and settled_by not in ('rest', 'job_id') as is_placed,
    case when is_inside and settled_by = 'resource_id' then resource_key end as slot_resource_key,
    case when settled_by = 'run_tag' then resource_key end as rented_resource_key
  from ledger_lines
),
job_lines as (
  select * from ledger_lines where is_inside and settled_by = 'job_id'
)
select
  l.source, l.billing_period, l.line_id as charge_id, l.charge_date, l.charge_period_start, l.charge_period_end, l.service_provider_name,
  l.billing_account_id, l.sub_account_id, l.region_id, l.service_name, l.charge_category, l.resource_id, l.invoice_id, l.cost_kind,
  l.billing_currency, l.list_cost, l.contracted_cost, l.effective_cost, l.billed_cost,
  'run' as allocated_to, j.tracking_server, j.workspace, j.run_id, cast(null as string) as owner_id,
  'job_id' as match_method, 'exact' as confidence, cast(null as string) as reason, cast(null as string) as pool_key,
  j.weight_kind, j.run_end_rule, j.is_scaled, j.ratio_before, j.ratio_upto, j.is_last,
  -- what the job's machine had and its only run did not ask for, as a share of the line; overhead apart
  case
    when j.runs_in_window > 1 then cast(null as float64)
    when r.gpu_count is not null and u.machine_gpus is not null then greatest(0.0, 1.0 - r.gpu_count / u.machine_gpus)
    when r.cpu_request is not null and u.machine_cpus is not null then greatest(0.0, 1.0 - r.cpu_request / u.machine_cpus)
    when r.memory_request_gb is not null and u.machine_memory_gb is not null then greatest(0.0, 1.0 - r.memory_request_gb / u.machine_memory_gb)
  end * (j.ratio_upto - j.ratio_before - j.overhead_ratio) as unused_ratio,
  j.overhead_ratio,
  l.line_team, l.line_project, l.line_cost_center, l.line_owner
from job_lines l
join job_targets j
  on j.job_key = l.job_key and j.charge_period_start = l.charge_period_start and j.charge_period_end = l.charge_period_end
left join machine_units u on u.resource_key = l.resource_key
left join (select tracking_server, workspace, run_id, gpu_count, cpu_request, memory_request_gb from window_runs where job_key is not null) r
  on r.tracking_server = j.tracking_server and r.workspace = j.workspace and r.run_id = j.run_id
union all
select
  l.source, l.billing_period, l.line_id as charge_id, l.charge_date, l.charge_period_start, l.charge_period_end, l.service_provider_name,
  l.billing_account_id, l.sub_account_id, l.region_id, l.service_name, l.charge_category, l.resource_id, l.invoice_id, l.cost_kind,
  l.billing_currency, l.list_cost, l.contracted_cost, l.effective_cost, l.billed_cost,
  case
    when g.run_tag is not null then 'run'
    when l.settled_by = 'run_tag' then 'unmatched'
    when t.resource_key is not null then t.allocated_to
    when l.line_kind = 'fee' then 'shared'
    when l.line_kind = 'timed' and l.is_known then 'idle'
    else 'unmatched'
  end as allocated_to,
  coalesce(g.tracking_server, t.tracking_server) as tracking_server,
  coalesce(g.workspace, t.workspace) as workspace,
  coalesce(g.run_id, t.run_id) as run_id,
  cast(null as string) as owner_id,
  case
    when l.settled_by = 'run_tag' then 'run_tag'
    when t.resource_key is not null or (l.line_kind = 'timed' and l.is_known) then 'resource_id'
    else 'none'
  end as match_method,
  case
    when l.settled_by = 'run_tag' then 'exact'
    when t.resource_key is not null or (l.line_kind = 'timed' and l.is_known) then 'high'
  end as confidence,
  case
    -- a tag is a claim: that the run was not there then, or that its machines are elsewhere, does not move the money, and is said
    when l.charge_period_end <= g.start_time or l.charge_period_start >= greatest(g.end_time, timestamp_add(g.start_time, interval 1 microsecond)) then 'other_time'
    when l.sub_account_id <> g.sub_account_id then 'other_account'
    when l.region_id <> g.region_id and lower(l.region_id) <> 'global' then 'other_region'
    when g.run_tag is not null then cast(null as string)
    when l.settled_by = 'run_tag' then 'unknown_run'
    when t.allocated_to = 'run' then cast(null as string)
    when l.line_kind = 'fee' then 'fee'
    when l.line_kind = 'timed' then 'no_run'
    else 'not_timed'
  end as reason,
  cast(null as string) as pool_key, t.weight_kind, t.run_end_rule,
  coalesce(t.is_scaled, false) as is_scaled,
  coalesce(t.ratio_before, 0.0) as ratio_before,
  coalesce(t.ratio_upto, 1.0) as ratio_upto,
  coalesce(t.is_last, true) as is_last,
  -- what a machine rented for the run had and the run did not ask for, as a share of the line
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
left join machine_units u on u.resource_key = l.rented_resource_key
-- a line with a target is placed anyway: named here, for an engine that could leave lines out before the join would guess how many stay, far
-- too few, and look the targets' lines up in a table of the lines, five times as large as one of the targets
where l.is_placed or t.resource_key is not null
