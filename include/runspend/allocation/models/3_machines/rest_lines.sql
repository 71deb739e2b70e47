-- one row per line that the first three rules do not allocate, and that a rule which prices lines together may still allocate
select
  source, billing_period, line_id, charge_date, charge_period_start, charge_period_end, service_provider_name, billing_account_id,
  sub_account_id, region_id, service_name, charge_category, resource_id, resource_key, invoice_id, billing_currency,
  list_cost, contracted_cost, effective_cost, billed_cost, scope, line_kind, cost_kind, llm_cloud, pricing_category,
  sku_id, charge_class, billed_nanoseconds, instance_type, machine_gpus, machine_cpus, machine_memory_gb,
  job_key, attached_to, group_keys, storage_key, storage_class, pool_key, line_team, line_project, line_cost_center, line_owner, is_inside
from ledger_lines
where allocated_by = 'rest'
