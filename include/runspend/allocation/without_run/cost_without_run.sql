-- Cost without a run in a billing period, by the columns that decide the advice.
-- One line represents all lines that were priced together, because they have equal values in the columns by which they were priced.
with lost as (
  select
    billing_currency, source, charge_id, max(service_name) as service_name, max(sub_account_id) as sub_account_id, max(cost_kind) as cost_kind,
    max(reason) as reason, allocated_to = 'out_of_scope' as is_outside, sum(effective_cost) as effective_cost
  from cost_allocations
  where billing_period = @first and (
    -- The owner of a caller of a language model is known even without a run.
    (allocated_to = 'unallocated' and match_method <> 'llm_identity')
    -- Runs have a part of these lines, so `outside` does not contain them.
    or (allocated_to = 'out_of_scope' and match_method <> 'none' and reason = 'default_scope')
  )
  group by billing_currency, source, charge_id, allocated_to = 'out_of_scope'
),
one_lines as (
  select source, charge_id, min(line_id) as line_id from charge_lines where billing_period = @first group by source, charge_id
),
{outside},
cost_lines as (
  select
    l.billing_currency, l.source, coalesce(l.service_name, '') as service_name, coalesce(l.sub_account_id, '') as sub_account_id, l.cost_kind,
    coalesce(l.reason, '') as reason, l.effective_cost, l.is_outside,
    {columns_of_charge}
  from lost l
  left join one_lines o on o.source = l.source and o.charge_id = l.charge_id
  left join (
    select
      source, line_id, tags, group_keys, sku_meter, charge_description, coalesce(instance_type, node_instance_type) as instance_type,
      coalesce(machine_gpus, node_gpus) as machine_gpus, resource_id, job_key, iam_principal,
      node_key is not null as is_part, attached_to is not null as is_attached
    from billing_lines
    where billing_period = @first
  ) b
    on b.source = l.source and b.line_id = coalesce(o.line_id, l.charge_id)
  union all
  select
    l.billing_currency, l.source, coalesce(l.service_name, '') as service_name, coalesce(l.sub_account_id, '') as sub_account_id,
    case
      when l.service_subcategory = 'Generative AI' then 'llm'
      when l.service_category in ('Compute', 'AI and Machine Learning') then 'compute'
      when l.service_category = 'Storage' then 'storage'
      when l.service_category = 'Networking' then 'network'
      else 'other'
    end as cost_kind,
    l.reason, l.effective_cost, true as is_outside,
    {columns_of_line}
  from outside l
),
grouped as (
  select
    billing_currency, source, service_name, sub_account_id, cost_kind, reason, tags, coalesce({machine_group}, '') as machine_group, effective_cost,
    meter, instance_type, machine_gpus, resource_type, principal, is_named, is_part, is_attached, is_outside
  from cost_lines
),
retagged as (
  -- If there is a machine group, other tags do not count.
  select
    billing_currency, source, service_name, sub_account_id, cost_kind, reason, machine_group, effective_cost,
    case when machine_group = '' then regexp_replace(tags, {own_tags}, '') else '' end as tags,
    meter, instance_type, machine_gpus, resource_type, principal, is_named, is_part, is_attached, is_outside
  from grouped
)
select
  billing_currency, source, service_name, sub_account_id, cost_kind, reason, tags, machine_group, meter,
  instance_type, machine_gpus, resource_type, principal, is_named, is_part, is_attached, is_outside,
  sum(effective_cost) as effective_cost
from retagged
group by
  billing_currency, source, service_name, sub_account_id, cost_kind, reason, tags, machine_group, meter,
  instance_type, machine_gpus, resource_type, principal, is_named, is_part, is_attached, is_outside
order by
  effective_cost desc, billing_currency, source, service_name, sub_account_id, cost_kind, reason, tags, machine_group, meter,
  instance_type, machine_gpus, resource_type, principal, is_named, is_part, is_attached, is_outside
-- The sets of tags with the least cost are left out.
limit 20000
