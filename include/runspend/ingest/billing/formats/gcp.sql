-- One row per delivered row of Google's export (view `gcp`). Each distinct text of a list is parsed once and then looked up. Lists are
-- never unnested together with a cost, so that costs are not multiplied.
with credit_texts as materialized (
  select credits, google_json(credits) as list_json
  from (select distinct credits from gcp where credits is not null and credits <> '[]')
),
credit_lists as materialized (
  select
    credits,
    case when len(json_extract(list_json, '$[*].amount')) = json_array_length(list_json) then json_extract_string(list_json, '$[*].amount') end as amounts,
    case
      when contains(list_json, 'COMMITTED_USAGE_DISCOUNT') then list_filter(
        json_extract(list_json, '$[*]'),
        lambda credit: coalesce(credit ->> '$.type', '') in ('COMMITTED_USAGE_DISCOUNT', 'COMMITTED_USAGE_DISCOUNT_DOLLAR_BASE')
      )[1]
    end as cud
  from credit_texts
),
-- The sum of the credits of a row. Doubles far below one have more than 22 decimals. If all amounts are below one, `long_total` has 36
-- exact decimals. The warehouse stores 22 of them, and the rest is counted as rounded off. `total` is null if an amount is not a number.
credit_totals as materialized (
  select
    credits, cud,
    case
      when coalesce(
        list_bool_and(list_transform(amounts, lambda a: coalesce(try_cast(a as decimal(38, 22)) is not null and not contains(a, '_'), false))),
        amounts is not null
      )
        then coalesce(list_sum(list_transform(amounts, lambda a: try_cast(a as decimal(38, 22)))), 0)
    end as total,
    case
      when list_bool_and(list_transform(amounts, lambda a: coalesce(abs(try_cast(a as decimal(38, 36))) < 1, false)))
        then list_sum(list_transform(amounts, lambda a: try_cast(a as decimal(38, 36))))
    end as long_total
  from credit_lists
),
label_lists as materialized (
  select
    labels, tags, project_labels, system_labels,
    google_json(labels) as labels_json,
    google_json(tags) as tags_json,
    google_json(project_labels) as project_json,
    google_json(system_labels) as system_json
  from (select distinct labels, tags, project_labels, system_labels from gcp)
),
label_pairs as materialized (
  select
    labels, tags, project_labels, system_labels,
    google_labels(labels_json, '$[*].key', '$[*].value') as own,
    google_labels(tags_json, '$[*].key', '$[*].value') as tagged,
    google_labels(project_json, '$[*].key', '$[*].value') as of_project,
    google_own(google_labels(system_json, '$[*].key', '$[*].value')) as of_google
  from label_lists
),
-- If one of the lists cannot be read, the row gets no tags and is counted.
label_orders as materialized (
  select
    labels, tags, project_labels, system_labels, of_google,
    case when own is not null and tagged is not null and of_project is not null and of_google is not null
      then google_beside(google_beside(own, tagged), google_beside(of_project, of_google))
    end as merged
  from label_pairs
),
label_sets as materialized (
  select
    labels, tags, project_labels, system_labels,
    google_tags(merged) as merged,
    google_label_value(of_google, 'machine_spec') as machine_spec,
    google_machine(of_google) as machine,
    google_whole_cores(of_google) as cores
  from label_orders
),
joined as (
  select
    g.*,
    l.merged, l.machine_spec, l.machine, l.cores,
    c.total, c.long_total, c.cud,
    g.credits is not null and g.credits <> '[]' as has_credits,
    lower(coalesce(g.cost_type, 'regular')) as kind,
    lower(coalesce(g.cost_type, 'regular')) = 'regular' and google_is_commitment_fee(g.sku_description) as is_fee,
    coalesce(g.adjustment_id, g.adjustment_type, g.adjustment_mode, g.adjustment_description) is not null
      or lower(coalesce(g.cost_type, '')) = 'adjustment' as is_adjustment,
    case when regexp_full_match(g.invoice_month, '20[0-9]{2}(0[1-9]|1[0-2])') then cast(g.invoice_month[1:4] || '-' || g.invoice_month[5:6] || '-01' as date) end
      as invoice_date,
    try_cast(g.cost as decimal(38, 22)) as short_cost,
    try_cast(g.cost as decimal(38, 36)) as long_cost,
    case when google_is_clock(g.pricing_unit) then g.pricing_amount else g.usage_amount end as amount,
    case when google_is_clock(g.pricing_unit) then g.pricing_unit else g.usage_unit end as unit
  from gcp g
  left join label_sets l
    on l.labels is not distinct from g.labels
    and l.tags is not distinct from g.tags
    and l.project_labels is not distinct from g.project_labels
    and l.system_labels is not distinct from g.system_labels
  left join credit_totals c on c.credits = g.credits
),
-- The net cost as text, so that decimals after the 22nd are counted as rounded off and not lost.
netted as (
  select
    *,
    case
      when not has_credits or short_cost is null then cost
      when long_total is not null and abs(long_cost) < 1 and long_cost + long_total <> cast(short_cost + total as decimal(38, 36))
        then cast(long_cost + long_total as varchar)
      else cast(short_cost + total as varchar)
    end as net_cost
  from joined
)
select
  row_number,
  net_cost as billed_cost,
  net_cost as effective_cost,
  cost_at_list as list_cost,
  cost as contracted_cost,
  effective_price as contracted_unit_price,
  currency as billing_currency,
  billing_account_id,
  project_id as sub_account_id,
  project_name as sub_account_name,
  case when project_id is not null then 'Project' end as sub_account_type,
  invoice_date as billing_period_start,
  invoice_date + interval 1 month as billing_period_end,
  usage_start_time as charge_period_start,
  usage_end_time as charge_period_end,
  case
    when kind = 'tax' then 'Tax'
    when is_fee then 'Purchase'
    when kind = 'regular' then 'Usage'
    when regexp_matches(adjustment_type, '(?i)(credit|goodwill|promotion)') then 'Credit'
    else 'Adjustment'
  end as charge_category,
  case when is_adjustment and google_is_of_earlier_month(usage_start_time, invoice_month) then 'Correction' end as charge_class,
  coalesce(sku_description, adjustment_description) as charge_description,
  case when is_fee then 'Recurring' when kind = 'regular' then 'Usage-Based' else 'One-Time' end as charge_frequency,
  case
    when kind <> 'regular' then null
    when cud is not null or is_fee then 'Committed'
    when regexp_matches(sku_description, '(?i)\b(spot|preemptible)\b') then 'Dynamic'
    else 'Standard'
  end as pricing_category,
  pricing_amount as pricing_quantity,
  pricing_unit,
  case when kind = 'regular' and not is_fee then google_clock_quantity(amount, unit, sku_description, cores) end as consumed_quantity,
  case when kind = 'regular' and not is_fee then google_clock_unit(unit, sku_description, cores) end as consumed_unit,
  case when cud is not null then subscription_id end as commitment_discount_id,
  case when cud is not null then coalesce(cud ->> '$.full_name', cud ->> '$.name') end as commitment_discount_name,
  case cud ->> '$.type' when 'COMMITTED_USAGE_DISCOUNT_DOLLAR_BASE' then 'Spend' when 'COMMITTED_USAGE_DISCOUNT' then 'Usage' end
    as commitment_discount_category,
  case when cud is not null and subscription_id is not null and kind = 'regular' and not is_fee then 'Used' end as commitment_discount_status,
  case when coalesce(transaction_type, 'GOOGLE') = 'GOOGLE' then 'Google Cloud' else coalesce(seller_name, 'Google Cloud') end as service_provider_name,
  'Google Cloud' as host_provider_name,
  'Google Cloud' as invoice_issuer_name,
  service_name,
  google_service_category(service_name) as service_category,
  case when kind <> 'tax' then sku_id end as sku_id,
  sku_description as sku_meter,
  machine as sku_price_details,
  machine_spec as delivered_instance_type,
  coalesce(resource_global_name, resource_name) as resource_id,
  resource_name,
  regexp_extract(resource_global_name, '/([A-Za-z_]+)/[^/]+$', 1) as resource_type,
  coalesce(region, location) as region_id,
  coalesce(region, location) as region_name,
  zone as availability_zone,
  merged as tags,
  case
    when invoice_date is null then unreadable('invoice.month', invoice_month, 'a month such as 202610')
    when has_credits and total is null then unreadable('credits', credits, 'a list of credits with a plain decimal amount each')
    when kind not in ('regular', 'tax', 'adjustment', 'rounding_error')
      then unreadable('cost_type', cost_type, 'regular, tax, adjustment or rounding_error')
  end as reject_reason
from netted
