-- Machines that no rule allocated to a run: their time and cost in each charge period, numbered by group.
-- The columns that follow `cell` identify a group.
taken as (
  select source, charge_id
  from cost_allocations
  where billing_period >= @first and allocated_to not in ('unallocated', 'out_of_scope', 'idle')
  group by source, charge_id
),
taken_lines as (
  select source, charge_id as line_id from taken
  union distinct
  select c.source, c.line_id from charge_lines c join taken t on t.source = c.source and t.charge_id = c.charge_id where c.billing_period >= @first
),
taken_nodes as (
  -- A machine that pods share, in charge periods in which a run has one of its pods.
  select distinct b.source, b.node_key, b.charge_period_start, b.charge_period_end
  from billing_lines b
  join taken_lines t on t.source = b.source and t.line_id = b.line_id
  where b.billing_period >= @first and b.node_key is not null
),
known_lines as (
  select
    b.*, lower(coalesce(b.sku_meter, b.charge_description, '')) as meter,
    -- The kind of a Google line that names neither a pod nor a job. "serving": endpoints, and calls of models.
    case
      when regexp_contains(lower(coalesce(b.sku_meter, b.charge_description, '')), r'{autopilot}') then 'pod'
      when b.resource_key is null and b.job_key is null and b.instance_type is null and regexp_contains(lower(coalesce(b.service_name, '')), r'{unnamed}')
        then case when regexp_contains(lower(coalesce(b.sku_meter, b.charge_description, '')), r'{training}') then 'job' else 'serving' end
      else ''
    end as unnamed
  from billing_lines b
  where b.billing_period >= @first
),
lines as (
  select
    b.source, coalesce(b.sub_account_id, '') as account, lower(coalesce(b.instance_type, b.node_instance_type, '')) as instance_type,
    coalesce(b.machine_gpus, b.node_gpus, case when b.unnamed <> '' and regexp_contains(b.meter, r'\b([gt]pu|nvidia)\b') then 1 else 0 end) as gpus,
    -- Labels distinguish pods and jobs, if they have any.
    case
      when b.unnamed <> '' then concat(b.unnamed, '|', coalesce(b.resource_key, ''), '|', coalesce(b.sub_account_id, ''), '|', coalesce(b.tags, ''))
      else coalesce(b.node_key, b.resource_key, concat('|', b.line_id))
    end as machine,
    case when b.unnamed <> '' then coalesce(b.service_name, '') else '' end as service,
    coalesce(b.node_key, b.resource_key, '') as resource_key, coalesce(b.allocated_resource_id, '') as part, coalesce(b.sku_id, '') as sku_id,
    b.billing_currency, coalesce(b.tags, '') as tags, coalesce(array_to_string(b.group_keys, '\n'), '') as group_keys,
    -- Machines that serve models all the time, and calls of models. No run ran on them.
    case
      when b.unnamed = 'serving' then 1
      when regexp_contains(lower(coalesce(b.resource_id, '')), r'{serving}') or regexp_contains(b.meter, r'{serving}') then 1
      else 0
    end as is_serving,
    -- Managed jobs, by service, by SageMaker's types, and by workspaces of Azure ML. If the resource names its kind of job, this kind is used.
    -- SageMaker's notebooks are not jobs.
    case
      when regexp_contains(lower(coalesce(b.resource_id, '')), r':[a-z-]+-job/') then regexp_extract(lower(b.resource_id), r':[a-z-]+-job/')
      when b.job_key is not null or strpos(lower(coalesce(b.resource_id, '')), '/microsoft.machinelearningservices/') > 0 then 'job'
      when strpos(lower(coalesce(b.resource_id, '')), ':notebook-instance/') > 0 then ''
      when starts_with(lower(coalesce(b.instance_type, '')), 'ml.') or regexp_contains(lower(coalesce(b.service_name, '')), r'{job_services}') then 'job'
      else ''
    end as job_kind,
    b.charge_period_start, b.charge_period_end, b.billed_nanoseconds, b.effective_cost
  from known_lines b
  left join taken_lines t on t.source = b.source and t.line_id = b.line_id
  left join taken_nodes n
    on n.source = b.source and n.node_key = b.node_key and n.charge_period_start = b.charge_period_start and n.charge_period_end = b.charge_period_end
  where t.line_id is null and n.node_key is null and b.pool_key is null and b.run_tag is null and coalesce(b.scope, 'include') = 'include'
    and b.charge_category = 'Usage' and b.charge_class is null and not is_unused(b.commitment_discount_status, b.capacity_reservation_status)
    and (coalesce(b.instance_type, b.node_instance_type) is not null or coalesce(b.machine_gpus, b.node_gpus) > 0 or b.unnamed <> '')
    and b.charge_period_end > b.charge_period_start and at_most_a_day(b.charge_period_start, b.charge_period_end)
    -- A line with zero hours and zero cost does not prove a machine.
    and not coalesce(b.billed_nanoseconds = 0 and b.effective_cost = 0, false)
),
spans as (
  -- Licenses and discounts add no time: the largest SKU is the machine. If pods share a machine, the longest pod has its time.
  select
    source, account, machine, resource_key, billing_currency, max(instance_type) as instance_type, max(gpus) as gpus,
    max(tags) as tags, max(group_keys) as group_keys, max(service) as service, max(is_serving) as is_serving, max(job_kind) as job_kind, charge_period_start, charge_period_end,
    coalesce(max(nanoseconds), timestamp_diff(charge_period_end, charge_period_start, microsecond) * 1000) as nanoseconds,
    sum(effective_cost) as effective_cost
  from (
    select
      source, account, machine, resource_key, billing_currency, sku_id, part, max(instance_type) as instance_type, max(gpus) as gpus,
      max(tags) as tags, max(group_keys) as group_keys, max(service) as service, max(is_serving) as is_serving, max(job_kind) as job_kind, charge_period_start, charge_period_end,
      sum(case when billed_nanoseconds > 0 then billed_nanoseconds end) as nanoseconds,
      sum(effective_cost) as effective_cost
    from lines
    group by source, account, machine, resource_key, billing_currency, sku_id, part, charge_period_start, charge_period_end
  ) s
  group by source, account, machine, resource_key, billing_currency, charge_period_start, charge_period_end
),
steady as (
  -- Accelerators that are on most of the time are listed individually.
  select source, machine from spans where gpus > 0 and resource_key <> '' group by source, machine having sum(nanoseconds) >= @steady_nanoseconds
),
described as (
  select
    s.source, s.account, s.instance_type, s.gpus, s.billing_currency, coalesce({machine_group}, '') as machine_group,
    -- The name that users give a machine, up to the first character that differs between machines.
    coalesce(regexp_extract(tags, r'(?i)"(?:name|user_name|resourceTags/user:name|user:name)": *"([a-z]+[-_.]?)'), '') as name_prefix,
    regexp_replace(s.tags, {own_tags}, '') as other_tags, case when t.machine is not null then s.resource_key else '' end as resource_key,
    s.service, s.is_serving, s.job_kind, s.charge_period_start, s.charge_period_end, s.nanoseconds, s.effective_cost
  from spans s
  left join steady t on t.source = s.source and t.machine = s.machine
),
grouped as (
  -- Rows are combined before they are numbered: the machines of a group in one charge period are one row.
  select
    source, account, instance_type, gpus, billing_currency, machine_group, name_prefix, other_tags, resource_key, service, is_serving, job_kind,
    charge_period_start, charge_period_end,
    -- More time than the charge period means that there are several machines in one line. Up to 1% more is rounding.
    cast(sum(greatest(1, ceil(nanoseconds / (timestamp_diff(charge_period_end, charge_period_start, microsecond) * 1000.0) - 0.01))) as int64) as machines,
    sum(nanoseconds) as nanoseconds, sum(effective_cost) as effective_cost
  from described
  group by
    source, account, instance_type, gpus, billing_currency, machine_group, name_prefix, other_tags, resource_key, service, is_serving, job_kind,
    charge_period_start, charge_period_end
),
numbered as (
  select
    dense_rank() over (order by source, account, instance_type, gpus, billing_currency, machine_group, name_prefix, other_tags, resource_key, service, is_serving, job_kind) as cell,
    source, account, instance_type, gpus, billing_currency, machine_group, name_prefix, other_tags, resource_key, service, is_serving, job_kind,
    charge_period_start, charge_period_end, machines, nanoseconds, effective_cost
  from grouped
)
