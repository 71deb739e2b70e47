-- one row per bill line of the period: the rule among the first three that applies, if any; whether the line belongs to the ML platform; and the
-- month of its charge (or the period, if that month is later)
with lines as (
  select
    source, billing_period, line_id, charge_date, charge_period_start, charge_period_end, service_provider_name, billing_account_id,
    sub_account_id, region_id, service_name, charge_category, resource_id, resource_key, invoice_id, billing_currency,
    list_cost, contracted_cost, effective_cost, billed_cost, run_tag, scope, service_category, pricing_category,
    sku_id, charge_class, billed_nanoseconds, lower(instance_type) as instance_type, machine_gpus, machine_cpus, machine_memory_gb,
    job_key, attached_to, group_keys, storage_key, storage_class, pool_key, line_team, line_project, line_cost_center, line_owner,
    nullif(array_to_string(group_keys, chr(31)), '') as group_text,
    -- A machine in a bill of `format: machines` exists to serve runs, even in a month without runs.
    coalesce(service_provider_name = 'own' and resource_type = 'Machine', false) as is_own,
    date_trunc(charge_date, month) as first_month,
    -- A credit of a machine may lack the tag of the machine's pool.
    case when charge_category in ('Credit', 'Adjustment') or charge_class = 'Correction' then resource_key end as credited_machine,
    date_trunc(date(timestamp_sub(charge_period_end, interval 1 microsecond)), month) as last_month,
    charge_period_end > charge_period_start and at_most_a_day(charge_period_start, charge_period_end) as is_short,
    case
      when charge_category in ('Purchase', 'Tax') then 'fee'
      -- The unused part of a capacity reservation is not a machine. In a pool, it is idle cost.
      when capacity_reservation_status = 'Unused' and pool_key is not null then 'unused'
      when is_unused(commitment_discount_status, capacity_reservation_status) then 'fee'
      -- "AWS Support (Business)", AWSSupportBusiness, "Microsoft Unified Support". A product of a machine "with Support" is not a fee.
      when strpos(lower(coalesce(service_name, '')), 'support') > 0 and (resource_key is null
        or regexp_contains(lower(service_name), r'^(aws|azure|microsoft|google|google cloud)? ?(premium|premier|unified|enhanced)? ?support')) then 'fee'
      when resource_key is null and job_key is null and (charge_category in ('Credit', 'Adjustment') or charge_class = 'Correction' or billed_cost < 0) then 'fee'
      -- A charge for several machines of one type does not name a resource.
      when (resource_key is not null or job_key is not null or (instance_type is not null and charge_category = 'Usage'))
        and charge_period_end > charge_period_start and at_most_a_day(charge_period_start, charge_period_end) then 'timed'
      else 'plain'
    end as line_kind,
    case
      when service_subcategory = 'Generative AI' then 'llm'
      when service_category in ('Compute', 'AI and Machine Learning') then 'compute'
      when service_category = 'Storage' then 'storage'
      when service_category = 'Networking' then 'network'
      else 'other'
    end as cost_kind,
    case
      when service_subcategory = 'Generative AI'
        then line_cloud(lower(concat(coalesce(host_provider_name, ''), ' ', coalesce(service_provider_name, ''), ' ', coalesce(service_name, ''))))
    end as llm_cloud
  from billing_lines
  where billing_period = @period
),
matched as (
  select
    l.source, l.billing_period, l.line_id, l.charge_date, l.charge_period_start, l.charge_period_end, l.service_provider_name, l.billing_account_id,
    l.sub_account_id, l.region_id, l.service_name, l.charge_category, l.resource_id, l.resource_key, l.invoice_id, l.billing_currency,
    l.list_cost, l.contracted_cost, l.effective_cost, l.billed_cost, l.run_tag, l.scope, l.service_category, l.pricing_category,
    l.sku_id, l.charge_class, l.billed_nanoseconds,
    -- A discount of a machine has no instance type. A late discount may be on a bill without the machine.
    coalesce(l.instance_type, e.instance_type, n.instance_type) as instance_type,
    coalesce(l.machine_gpus, e.machine_gpus) as machine_gpus, coalesce(l.machine_cpus, e.machine_cpus) as machine_cpus,
    coalesce(l.machine_memory_gb, e.machine_memory_gb) as machine_memory_gb,
    l.job_key, l.attached_to, l.group_keys, l.storage_key, l.storage_class, coalesce(l.pool_key, p.pool_key) as pool_key, l.line_team, l.line_project, l.line_cost_center, l.line_owner,
    l.line_kind, l.cost_kind, l.llm_cloud,
    k.resource_key is not null or l.is_own as is_known,
    l.line_kind = 'timed' and coalesce(l.scope, '') not in ('exclude', 'shared') and (coalesce(l.pool_key, p.pool_key) is not null or w.instance_type is not null) as is_wanted,
    k.resource_key is not null or o.resource_key is not null or s.storage_key is not null or b.storage_key is not null or l.is_own as is_on_platform,
    case
      when l.run_tag is not null then 'run_tag'
      when l.line_kind in ('fee', 'unused') then 'none'
      when j.job_key is not null then 'job_id'
      when l.line_kind = 'timed' and (k.resource_key is not null or o.resource_key is not null) then 'resource_id'
      -- Declared as shared cost. A statement of a run or a tag takes precedence, but an inferred match does not.
      when l.scope = 'shared' then 'none'
      -- Rules that price lines together run after all machines have been processed.
      when (l.is_short and (m.attached_to is not null or g.group_text is not null))
        or s.is_measured
        or (l.is_short and coalesce(l.pool_key, p.pool_key) is not null)
        or (l.line_kind = 'timed' and w.instance_type is not null)
        or (l.cost_kind = 'llm' and l.is_short) then 'rest'
      else 'none'
    end as allocated_by
  from lines l
  left join allocated_jobs j
    on j.job_key = l.job_key and j.charge_period_start = l.charge_period_start and j.charge_period_end = l.charge_period_end
  left join known_machines k on k.resource_key = l.resource_key and k.month = l.first_month
  left join known_machines o on o.resource_key = l.resource_key and o.month = l.last_month
  left join attachable_machines m on m.attached_to = l.attached_to
  left join attachable_groups g on g.group_text = l.group_text
  left join platform_stores s on s.storage_key = l.storage_key
  -- Traffic of a bucket may be billed by other services.
  left join platform_stores b on b.storage_key = l.resource_key
  left join machine_types n on n.resource_key = l.resource_key
  left join earlier_properties e
    on e.resource_key = l.resource_key and e.month = l.first_month
      and e.charge_period_start = l.charge_period_start and e.charge_period_end = l.charge_period_end
  left join machine_pools p
    on p.resource_key = l.credited_machine and p.charge_period_start = l.charge_period_start and p.charge_period_end = l.charge_period_end
  left join wanted_types w on w.instance_type = coalesce(l.instance_type, e.instance_type, n.instance_type)
)
select
  l.source, l.billing_period, l.line_id, l.charge_date, charge_month(l.charge_date) as month, l.charge_period_start, l.charge_period_end, l.service_provider_name,
  l.billing_account_id, l.sub_account_id, l.region_id, l.service_name, l.charge_category, l.resource_id, l.resource_key, l.invoice_id, l.billing_currency,
  l.list_cost, l.contracted_cost, l.effective_cost, l.billed_cost, l.run_tag, l.scope, l.line_kind, l.cost_kind, l.llm_cloud, l.pricing_category,
  l.sku_id, l.charge_class, l.billed_nanoseconds, l.instance_type, l.machine_gpus, l.machine_cpus, l.machine_memory_gb,
  l.job_key, l.attached_to, l.group_keys, l.storage_key, l.storage_class, l.pool_key, l.line_team, l.line_project, l.line_cost_center, l.line_owner,
  l.is_known, l.allocated_by,
  -- Machine time that remains after the runs that state the machine is offered to runs of a pool or an instance type.
  l.allocated_by = 'resource_id' and l.is_wanted as is_offered,
  case
    when l.scope is not null then l.scope in ('include', 'shared')
    when l.allocated_by in ('run_tag', 'job_id', 'resource_id') or l.is_on_platform or l.pool_key is not null
      or l.service_category = 'AI and Machine Learning' then true
    when l.line_kind = 'fee' then a.source is not null
    else false
  end as is_inside
from matched l
left join inside_accounts a on a.source = l.source and a.sub_account_id = coalesce(l.sub_account_id, '')
