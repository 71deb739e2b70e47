-- One row per delivered row of Google's own FOCUS (view `gcp_focus`), in the form that FOCUS requires.
with label_lists as materialized (
  select
    tags, labels, resource_tags, project_labels, system_labels,
    google_json(tags) as tags_json,
    google_json(labels) as labels_json,
    google_json(resource_tags) as resource_json,
    google_json(project_labels) as project_json,
    google_json(system_labels) as system_json
  from (select distinct tags, labels, resource_tags, project_labels, system_labels from gcp_focus)
),
-- The view has one list of tags, which states the origin of each entry. The native export has one list per origin.
label_kinds as materialized (
  select
    tags, labels, resource_tags, project_labels, system_labels,
    google_labels(tags_json, '$[*].key', '$[*].value') as listed,
    json_extract_string(tags_json, '$[*].x_type') as kinds,
    google_labels(labels_json, '$[*].Key', '$[*].Value') as own,
    google_labels(resource_json, '$[*].Key', '$[*].Value') as tagged,
    google_labels(project_json, '$[*].Key', '$[*].Value') as of_project,
    google_labels(system_json, '$[*].Key', '$[*].Value') as of_google
  from label_lists
),
label_pairs as materialized (
  select
    tags, labels, resource_tags, project_labels, system_labels,
    own is not null and tagged is not null and of_project is not null and of_google is not null and len(kinds) in (0, len(listed)) as is_read,
    list_concat(own, list_filter(listed, lambda label, place: kinds[place] = 'label')) as own,
    list_concat(tagged, list_filter(listed, lambda label, place: coalesce(kinds[place], 'tag') = 'tag')) as tagged,
    list_concat(of_project, list_filter(listed, lambda label, place: kinds[place] = 'project_label')) as of_project,
    google_own(list_concat(of_google, list_filter(listed, lambda label, place: kinds[place] = 'system_label'))) as of_google
  from label_kinds
),
label_orders as materialized (
  select
    tags, labels, resource_tags, project_labels, system_labels, of_google,
    case when is_read then google_beside(google_beside(own, tagged), google_beside(of_project, of_google)) end as merged
  from label_pairs
),
label_sets as materialized (
  select
    tags, labels, resource_tags, project_labels, system_labels,
    google_tags(merged) as merged,
    google_label_value(of_google, 'machine_spec') as machine_spec,
    google_machine(of_google) as machine,
    google_whole_cores(of_google) as cores
  from label_orders
),
joined as (
  select
    f.*,
    lower(f.charge_category) = 'usage' and google_is_commitment_fee(f.charge_description) as is_fee,
    -- Some users change the view so that the tags are an object.
    case when starts_with(f.tags, '{') then f.tags else l.merged end as merged,
    l.machine_spec, l.machine, l.cores,
    -- The month comes from the start. The view writes midnight in Los Angeles (07:00 or 08:00 UTC on the 1st) as the start, and the last
    -- day as the end.
    month_of(instant(f.billing_period_start)) as month
  from gcp_focus f
  left join label_sets l
    on l.tags is not distinct from f.tags
    and l.labels is not distinct from f.labels
    and l.resource_tags is not distinct from f.resource_tags
    and l.project_labels is not distinct from f.project_labels
    and l.system_labels is not distinct from f.system_labels
)
select
  row_number,
  billed_cost,
  coalesce(effective_cost, billed_cost) as effective_cost,
  list_cost,
  contracted_cost,
  list_unit_price,
  contracted_unit_price,
  billing_currency,
  pricing_currency,
  pricing_currency_effective_cost,
  pricing_currency_list_unit_price,
  pricing_currency_contracted_unit_price,
  billing_account_id,
  billing_account_type,
  -- In the view, SubAccountId is the billing account.
  coalesce(project_id, nullif(sub_account_id, billing_account_id)) as sub_account_id,
  coalesce(project_name, sub_account_name) as sub_account_name,
  case when coalesce(project_id, nullif(sub_account_id, billing_account_id)) is not null then 'Project' end as sub_account_type,
  -- A start that cannot be read is kept unchanged, so that the quarantine can state it.
  coalesce(cast(month as varchar), billing_period_start) as billing_period_start,
  coalesce(cast(cast(month + interval 1 month as date) as varchar), billing_period_end) as billing_period_end,
  charge_period_start,
  charge_period_end,
  case when is_fee then 'Purchase' else upper(charge_category[1]) || lower(charge_category[2:]) end as charge_category,
  -- Google marks every adjustment as a correction. In FOCUS, only an adjustment of an invoiced month is one.
  case when charge_class is not null and google_is_of_earlier_month(charge_period_start, strftime(month, '%Y%m')) then 'Correction' end as charge_class,
  charge_description,
  case when is_fee then 'Recurring' when lower(charge_category) = 'usage' then 'Usage-Based' else 'One-Time' end as charge_frequency,
  upper(pricing_category[1]) || lower(pricing_category[2:]) as pricing_category,
  pricing_quantity,
  pricing_unit,
  case when not is_fee then google_clock_quantity(consumed_quantity, consumed_unit, charge_description, cores) end as consumed_quantity,
  case when not is_fee then google_clock_unit(consumed_unit, charge_description, cores) end as consumed_unit,
  commitment_discount_id,
  commitment_discount_name,
  commitment_discount_category,
  commitment_discount_type,
  invoice_id,
  coalesce(invoice_issuer_name, 'Google Cloud') as invoice_issuer_name,
  service_provider(service_provider_name, coalesce(provider_name, 'Google Cloud'), publisher_name) as service_provider_name,
  'Google Cloud' as host_provider_name,
  service_name,
  -- In the view, the service category is a list (the taxonomy of the price list). In the native export, it is missing.
  case when starts_with(service_category, '[') or service_category is null then google_service_category(service_name) else service_category end
    as service_category,
  sku_id,
  sku_price_id,
  charge_description as sku_meter,
  machine as sku_price_details,
  machine_spec as delivered_instance_type,
  coalesce(resource_id, resource_name) as resource_id,
  resource_name,
  resource_type,
  region_id,
  region_name,
  availability_zone,
  merged as tags
from joined
