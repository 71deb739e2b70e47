-- Usage lines that are not in any charge of the ledger, and the sums of accelerators that `scope` excludes.
out_of_scope as (
  select distinct source, charge_date, coalesce(service_name, '') as service_name, coalesce(sub_account_id, '') as sub_account_id
  from cost_allocations
  where billing_period = @first and allocated_to = 'out_of_scope'
),
beside as (
  select
    b.source, b.line_id, b.service_name, b.service_category, b.service_subcategory, b.sub_account_id, b.billing_currency, b.effective_cost,
    b.tags, b.group_keys, b.sku_meter, b.charge_description, coalesce(b.instance_type, b.node_instance_type) as instance_type,
    coalesce(b.machine_gpus, b.node_gpus) as machine_gpus, b.resource_id, b.job_key, b.iam_principal,
    b.node_key is not null as is_part, b.attached_to is not null as is_attached,
    case when b.scope = 'exclude' then 'explicit_scope' else 'default_scope' end as reason
  from billing_lines b
  join out_of_scope o
    on o.source = b.source and o.charge_date = b.charge_date and o.service_name = coalesce(b.service_name, '') and o.sub_account_id = coalesce(b.sub_account_id, '')
  where b.billing_period = @first
    and (b.scope is null or (b.scope = 'exclude' and starts_with(coalesce(b.charge_description, ''), 'accelerators: ')))
    and b.charge_category not in ('Purchase', 'Tax') and not is_unused(b.commitment_discount_status, b.capacity_reservation_status)
    and strpos(lower(coalesce(b.service_name, '')), 'support') = 0
    -- Credits and corrections without a resource are fees too.
    and not (
      b.resource_key is null and b.job_key is null
      and (b.charge_category in ('Credit', 'Adjustment') or coalesce(b.charge_class, '') = 'Correction' or coalesce(b.billed_cost, 0) < 0)
    )
),
allocated as (
  select source, charge_id as line_id from cost_allocations where billing_period = @first and allocated_to <> 'out_of_scope'
  union all
  select source, line_id from charge_lines where billing_period = @first
),
outside as (
  select b.*
  from beside b
  left join allocated a on a.source = b.source and a.line_id = b.line_id
  where a.line_id is null
)
