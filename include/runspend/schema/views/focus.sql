-- One row per charge and target: FOCUS Cost and Usage, split among runs. Rows of one origin charge have the same x_OriginChargeId. Their costs
-- and quantities add up to those of the origin charge, and their ratios add up to 1. Cost outside the ML platform appears as sums. The query
-- has no parameters, so it can be used as a view without changes.
with rests as (
  -- Lines that are divided at line_from. The part before it belongs to runs that state the machine. The rest is part of a charge that
  -- combines several lines.
  select source, billing_period, line_id, line_from
  from charge_lines
  where line_from > 0
),
settled as (
  select
    a.source, a.billing_period, a.charge_date, a.charge_id, a.target_id, a.charge_period_start, a.charge_period_end, a.billing_currency,
    a.charge_category, a.cost_kind, a.allocated_to, a.tracking_server, a.workspace, a.run_id, a.list_cost, a.contracted_cost, a.effective_cost, a.billed_cost, a.match_method, a.confidence, a.pool_key,
    a.reason, a.weight_kind, a.run_end_rule, a.cost_status, a.allocated_ratio,
    -- The amount that `sharing` subtracts from a shared cost is one charge. The amounts that it adds to runs are another charge.
    a.match_method = 'sharing' and a.allocated_to <> 'run' as is_pot,
    cast(round(coalesce(a.allocated_ratio, 1.0) / coalesce(r.line_from, 1.0) * 1e18) as int64) as units
  from cost_allocations a
  left join rests r on r.source = a.source and r.billing_period = a.billing_period and r.line_id = a.charge_id
  where not (a.allocated_to = 'out_of_scope' and a.match_method = 'none')
),
ordered as (
  select
    *,
    cast(sum(units) over (w rows between unbounded preceding and current row) as int64) as units_to,
    lead(target_id) over w is null as is_last
  from settled
  -- The last part gets the rounding remainder. It is the largest part, so the remainder never exceeds it.
  window w as (partition by source, billing_period, charge_date, charge_id, is_pot order by allocated_ratio, target_id)
),
parts as (
  select
    *,
    units_to - units as units_from,
    case when is_last then 1000000000000000000 - (units_to - units) else units end as units_own
  from ordered
),
stored as (
  -- Lines of buckets whose bytes are known. They are charges of the whole period, and have the date of its first day.
  select source, billing_period, line_id, charge_id
  from charge_lines
  where starts_with(charge_id, 'artifact_bytes|')
),
charged as (
  -- Lines that were priced together, with the date of their charge. So an engine that filters by day reads only the lines of that day's
  -- charges.
  select c.charge_id, l.charge_date as origin_date, c.line_from, l.*
  from charge_lines c
  join billing_lines l on l.source = c.source and l.billing_period = c.billing_period and l.line_id = c.line_id
  where not starts_with(c.charge_id, 'artifact_bytes|')
  union all
  select c.charge_id, l.billing_period, 0.0, l.*
  from stored c
  join billing_lines l on l.source = c.source and l.billing_period = c.billing_period and l.line_id = c.line_id
  where l.storage_key is not null
),
pooled as (
  -- Lines that were priced together are one origin charge. A column has the value that all lines share, or null if they differ.
  select
    l.source, l.billing_period, l.origin_date as charge_date, l.charge_id, count(*) as line_count,
    case when min(l.availability_zone) = max(l.availability_zone) and count(l.availability_zone) = count(*) then min(l.availability_zone) end as availability_zone,
    min(l.billing_account_id) as billing_account_id,
    min(l.billing_account_name) as billing_account_name,
    case when min(l.billing_account_type) = max(l.billing_account_type) and count(l.billing_account_type) = count(*) then min(l.billing_account_type) end as billing_account_type,
    min(l.billing_currency) as billing_currency,
    min(l.billing_period_end) as billing_period_end,
    min(l.billing_period_start) as billing_period_start,
    case when min(l.capacity_reservation_id) = max(l.capacity_reservation_id) and count(l.capacity_reservation_id) = count(*) then min(l.capacity_reservation_id) end as capacity_reservation_id,
    case when min(l.capacity_reservation_status) = max(l.capacity_reservation_status) and count(l.capacity_reservation_status) = count(*) then min(l.capacity_reservation_status) end as capacity_reservation_status,
    min(l.charge_category) as charge_category,
    case when min(l.charge_class) = max(l.charge_class) and count(l.charge_class) = count(*) then min(l.charge_class) end as charge_class,
    case when min(l.charge_description) = max(l.charge_description) and count(l.charge_description) = count(*) then min(l.charge_description) end as charge_description,
    min(l.charge_frequency) as charge_frequency,
    max(l.charge_period_end) as charge_period_end,
    min(l.charge_period_start) as charge_period_start,
    case when min(l.commitment_discount_category) = max(l.commitment_discount_category) and count(l.commitment_discount_category) = count(*) then min(l.commitment_discount_category) end as commitment_discount_category,
    case when min(l.commitment_discount_id) = max(l.commitment_discount_id) and count(l.commitment_discount_id) = count(*) then min(l.commitment_discount_id) end as commitment_discount_id,
    case when min(l.commitment_discount_name) = max(l.commitment_discount_name) and count(l.commitment_discount_name) = count(*) then min(l.commitment_discount_name) end as commitment_discount_name,
    case when min(l.commitment_discount_status) = max(l.commitment_discount_status) and count(l.commitment_discount_status) = count(*) then min(l.commitment_discount_status) end as commitment_discount_status,
    case when min(l.commitment_discount_type) = max(l.commitment_discount_type) and count(l.commitment_discount_type) = count(*) then min(l.commitment_discount_type) end as commitment_discount_type,
    case when min(l.commitment_discount_unit) = max(l.commitment_discount_unit) and count(l.commitment_discount_unit) = count(*) then min(l.commitment_discount_unit) end as commitment_discount_unit,
    case when min(l.consumed_unit) = max(l.consumed_unit) and count(l.consumed_unit) = count(*) then min(l.consumed_unit) end as consumed_unit,
    case when min(l.contracted_unit_price) = max(l.contracted_unit_price) and count(l.contracted_unit_price) = count(*) then min(l.contracted_unit_price) end as contracted_unit_price,
    min(l.host_provider_name) as host_provider_name,
    case when min(l.invoice_detail_id) = max(l.invoice_detail_id) and count(l.invoice_detail_id) = count(*) then min(l.invoice_detail_id) end as invoice_detail_id,
    case when min(l.invoice_id) = max(l.invoice_id) and count(l.invoice_id) = count(*) then min(l.invoice_id) end as invoice_id,
    min(l.invoice_issuer_name) as invoice_issuer_name,
    case when min(l.list_unit_price) = max(l.list_unit_price) and count(l.list_unit_price) = count(*) then min(l.list_unit_price) end as list_unit_price,
    case when min(l.pricing_category) = max(l.pricing_category) and count(l.pricing_category) = count(*) then min(l.pricing_category) end as pricing_category,
    case when min(l.pricing_currency) = max(l.pricing_currency) and count(l.pricing_currency) = count(*) then min(l.pricing_currency) end as pricing_currency,
    case when min(l.pricing_currency_contracted_unit_price) = max(l.pricing_currency_contracted_unit_price) and count(l.pricing_currency_contracted_unit_price) = count(*) then min(l.pricing_currency_contracted_unit_price) end as pricing_currency_contracted_unit_price,
    case when min(l.pricing_currency_list_unit_price) = max(l.pricing_currency_list_unit_price) and count(l.pricing_currency_list_unit_price) = count(*) then min(l.pricing_currency_list_unit_price) end as pricing_currency_list_unit_price,
    case when min(l.pricing_unit) = max(l.pricing_unit) and count(l.pricing_unit) = count(*) then min(l.pricing_unit) end as pricing_unit,
    case when min(l.region_id) = max(l.region_id) and count(l.region_id) = count(*) then min(l.region_id) end as region_id,
    case when min(l.region_name) = max(l.region_name) and count(l.region_name) = count(*) then min(l.region_name) end as region_name,
    case when min(l.resource_id) = max(l.resource_id) and count(l.resource_id) = count(*) then min(l.resource_id) end as resource_id,
    case when min(l.resource_name) = max(l.resource_name) and count(l.resource_name) = count(*) then min(l.resource_name) end as resource_name,
    case when min(l.resource_type) = max(l.resource_type) and count(l.resource_type) = count(*) then min(l.resource_type) end as resource_type,
    min(l.service_category) as service_category,
    min(l.service_name) as service_name,
    min(l.service_provider_name) as service_provider_name,
    case when min(l.service_subcategory) = max(l.service_subcategory) and count(l.service_subcategory) = count(*) then min(l.service_subcategory) end as service_subcategory,
    case when min(l.sku_id) = max(l.sku_id) and count(l.sku_id) = count(*) then min(l.sku_id) end as sku_id,
    case when min(l.sku_meter) = max(l.sku_meter) and count(l.sku_meter) = count(*) then min(l.sku_meter) end as sku_meter,
    case when min(l.sku_price_details) = max(l.sku_price_details) and count(l.sku_price_details) = count(*) then min(l.sku_price_details) end as sku_price_details,
    case when min(l.sku_price_id) = max(l.sku_price_id) and count(l.sku_price_id) = count(*) then min(l.sku_price_id) end as sku_price_id,
    case when min(l.sub_account_id) = max(l.sub_account_id) and count(l.sub_account_id) = count(*) then min(l.sub_account_id) end as sub_account_id,
    case when min(l.sub_account_name) = max(l.sub_account_name) and count(l.sub_account_name) = count(*) then min(l.sub_account_name) end as sub_account_name,
    case when min(l.sub_account_type) = max(l.sub_account_type) and count(l.sub_account_type) = count(*) then min(l.sub_account_type) end as sub_account_type,
    case when min(l.tags) = max(l.tags) and count(l.tags) = count(*) then min(l.tags) end as tags,
    case when min(l.contract_applied) = max(l.contract_applied) and count(l.contract_applied) = count(*) then min(l.contract_applied) end as contract_applied,
    case when min(l.commitment_program_eligibility_details) = max(l.commitment_program_eligibility_details) and count(l.commitment_program_eligibility_details) = count(*) then min(l.commitment_program_eligibility_details) end as commitment_program_eligibility_details,
    case when min(l.consumed_unit) = max(l.consumed_unit) and count(l.consumed_unit) = count(*) then sum(l.consumed_quantity - case when l.line_from > 0 then exact_money(cast(cast(l.consumed_quantity as string) as float64) * l.line_from) else bignumeric '0' end) end as consumed_quantity,
    case when min(l.pricing_unit) = max(l.pricing_unit) and count(l.pricing_unit) = count(*) then sum(l.pricing_quantity - case when l.line_from > 0 then exact_money(cast(cast(l.pricing_quantity as string) as float64) * l.line_from) else bignumeric '0' end) end as pricing_quantity,
    case when min(l.commitment_discount_unit) = max(l.commitment_discount_unit) and count(l.commitment_discount_unit) = count(*) then sum(l.commitment_discount_quantity - case when l.line_from > 0 then exact_money(cast(cast(l.commitment_discount_quantity as string) as float64) * l.line_from) else bignumeric '0' end) end as commitment_discount_quantity,
    case when min(l.pricing_currency) = max(l.pricing_currency) and count(l.pricing_currency) = count(*) then sum(l.pricing_currency_effective_cost - case when l.line_from > 0 then exact_money(cast(cast(l.pricing_currency_effective_cost as string) as float64) * l.line_from) else bignumeric '0' end) end as pricing_currency_effective_cost
  from charged l
  group by l.source, l.billing_period, l.origin_date, l.charge_id
),
origins as (
  select
    source, billing_period, charge_date, charge_id, line_count,
    availability_zone, billing_account_id, billing_account_name, billing_account_type, billing_currency, billing_period_end, billing_period_start,
    capacity_reservation_id, capacity_reservation_status, charge_category, charge_class, charge_description, charge_frequency, charge_period_end,
    charge_period_start, commitment_discount_category, commitment_discount_id, commitment_discount_name, commitment_discount_status,
    commitment_discount_type, commitment_discount_unit, consumed_unit, contracted_unit_price, host_provider_name, invoice_detail_id, invoice_id,
    invoice_issuer_name, list_unit_price, pricing_category, pricing_currency, pricing_currency_contracted_unit_price, pricing_currency_list_unit_price,
    pricing_unit, region_id, region_name, resource_id, resource_name, resource_type, service_category, service_name, service_provider_name,
    service_subcategory, sku_id, sku_meter, sku_price_details, sku_price_id, sub_account_id, sub_account_name, sub_account_type, tags, contract_applied,
    commitment_program_eligibility_details, consumed_quantity, pricing_quantity, commitment_discount_quantity, pricing_currency_effective_cost
  from pooled
  union all
  select
    l.source, l.billing_period, l.charge_date, l.line_id, 1,
    l.availability_zone, l.billing_account_id, l.billing_account_name, l.billing_account_type, l.billing_currency, l.billing_period_end, l.billing_period_start,
    l.capacity_reservation_id, l.capacity_reservation_status, l.charge_category, l.charge_class, l.charge_description, l.charge_frequency, l.charge_period_end,
    l.charge_period_start, l.commitment_discount_category, l.commitment_discount_id, l.commitment_discount_name, l.commitment_discount_status,
    l.commitment_discount_type, l.commitment_discount_unit, l.consumed_unit, l.contracted_unit_price, l.host_provider_name, l.invoice_detail_id, l.invoice_id,
    l.invoice_issuer_name, l.list_unit_price, l.pricing_category, l.pricing_currency, l.pricing_currency_contracted_unit_price, l.pricing_currency_list_unit_price,
    l.pricing_unit, l.region_id, l.region_name, l.resource_id, l.resource_name, l.resource_type, l.service_category, l.service_name, l.service_provider_name,
    l.service_subcategory, l.sku_id, l.sku_meter, l.sku_price_details, l.sku_price_id, l.sub_account_id, l.sub_account_name, l.sub_account_type, l.tags, l.contract_applied,
    l.commitment_program_eligibility_details, case when r.line_from > 0 then exact_money(cast(cast(l.consumed_quantity as string) as float64) * r.line_from) else l.consumed_quantity end as consumed_quantity, case when r.line_from > 0 then exact_money(cast(cast(l.pricing_quantity as string) as float64) * r.line_from) else l.pricing_quantity end as pricing_quantity, case when r.line_from > 0 then exact_money(cast(cast(l.commitment_discount_quantity as string) as float64) * r.line_from) else l.commitment_discount_quantity end as commitment_discount_quantity, case when r.line_from > 0 then exact_money(cast(cast(l.pricing_currency_effective_cost as string) as float64) * r.line_from) else l.pricing_currency_effective_cost end as pricing_currency_effective_cost
  from billing_lines l
  left join rests r on r.source = l.source and r.billing_period = l.billing_period and r.line_id = l.line_id
),
run_tags as (
  select
    tracking_server, workspace, run_id,
    -- The tags of the run come after those of Runspend, whose keys have a prefix.
    case when tags is null or tags = '{}' then '}' else concat(',', substr(tags, 2)) end as more_tags
  from runs
),
split as (
  select
    p.source, p.billing_period, p.charge_date, p.charge_id, coalesce(o.line_count, 0) as line_count, p.target_id, p.cost_kind, p.allocated_to, p.tracking_server, p.workspace, p.run_id,
    p.billed_cost, p.contracted_cost, p.effective_cost, p.list_cost, p.match_method, p.confidence, p.pool_key, p.reason, p.weight_kind, p.run_end_rule, p.cost_status, p.is_last,
    p.match_method <> 'none' and not p.is_pot as is_allocated,
    p.units_from / 1e18 as ratio_from,
    case when p.units_own >= 1000000000000000000 then '1' else concat('0.', lpad(cast(p.units_own as string), 18, '0')) end as ratio_text,
    n.run_name, n.experiment_id, n.experiment_name, n.team, n.project, n.cost_center, n.owner, coalesce(t.more_tags, '}') as more_tags,
    -- Amounts that `sharing` distributes have no bill line.
    coalesce(o.billing_account_id, 'runspend') as billing_account_id, coalesce(o.billing_currency, p.billing_currency) as billing_currency,
    coalesce(o.billing_period_start, timestamp(p.billing_period)) as billing_period_start,
    coalesce(o.billing_period_end, timestamp(date_add(p.billing_period, interval 1 month))) as billing_period_end,
    coalesce(o.charge_category, p.charge_category) as charge_category,
    coalesce(o.charge_period_start, p.charge_period_start) as charge_period_start, coalesce(o.charge_period_end, p.charge_period_end) as charge_period_end,
    case when o.charge_id is null then 'Runspend' else o.invoice_issuer_name end as invoice_issuer_name,
    case when o.charge_id is null then 'Runspend' else o.service_provider_name end as service_provider_name,
    case when o.charge_id is null then 'Other' else o.service_category end as service_category,
    case when o.charge_id is null then 'Runspend sharing' else o.service_name end as service_name,
    o.availability_zone, o.billing_account_name, o.billing_account_type, o.capacity_reservation_id, o.capacity_reservation_status, o.charge_class,
    o.charge_description, coalesce(o.charge_frequency, case when o.charge_id is null then 'One-Time' end) as charge_frequency, o.commitment_discount_category, o.commitment_discount_id, o.commitment_discount_name,
    o.commitment_discount_status, o.commitment_discount_type, o.commitment_discount_unit, o.consumed_unit, o.contracted_unit_price, o.host_provider_name,
    o.invoice_detail_id, o.invoice_id, o.list_unit_price, o.pricing_category, o.pricing_currency, o.pricing_currency_contracted_unit_price,
    o.pricing_currency_list_unit_price, o.pricing_unit, o.region_id, o.region_name, o.resource_id, o.resource_name, o.resource_type,
    o.service_subcategory, o.sku_id, o.sku_meter, o.sku_price_details, o.sku_price_id, o.sub_account_id, o.sub_account_name, o.sub_account_type, o.tags,
    o.contract_applied, o.commitment_program_eligibility_details,
    o.consumed_quantity, cast(cast(o.consumed_quantity as string) as float64) * (p.units_from / 1e18) as consumed_quantity_from, cast(cast(o.consumed_quantity as string) as float64) * ((p.units_from + p.units_own) / 1e18) as consumed_quantity_to,
    o.pricing_quantity, cast(cast(o.pricing_quantity as string) as float64) * (p.units_from / 1e18) as pricing_quantity_from, cast(cast(o.pricing_quantity as string) as float64) * ((p.units_from + p.units_own) / 1e18) as pricing_quantity_to,
    o.commitment_discount_quantity, cast(cast(o.commitment_discount_quantity as string) as float64) * (p.units_from / 1e18) as commitment_discount_quantity_from, cast(cast(o.commitment_discount_quantity as string) as float64) * ((p.units_from + p.units_own) / 1e18) as commitment_discount_quantity_to,
    o.pricing_currency_effective_cost, cast(cast(o.pricing_currency_effective_cost as string) as float64) * (p.units_from / 1e18) as pricing_currency_effective_cost_from, cast(cast(o.pricing_currency_effective_cost as string) as float64) * ((p.units_from + p.units_own) / 1e18) as pricing_currency_effective_cost_to
  from parts p
  left join origins o on o.source = p.source and o.billing_period = p.billing_period and o.charge_date = p.charge_date and o.charge_id = p.charge_id
  left join run_costs n
    on n.tracking_server = p.tracking_server and n.workspace = p.workspace and n.run_id = p.run_id and n.billing_currency = p.billing_currency
  left join run_tags t on t.tracking_server = p.tracking_server and t.workspace = p.workspace and t.run_id = p.run_id
),
inside as (
  -- All lines that are a charge by themselves, or a part of one. They are read a second time, so that an engine can filter by the requested
  -- days.
  select a.source, a.billing_period, a.charge_date, c.line_id
  from (
    -- Each charge only once, because the number of lines times targets is large.
    select distinct source, billing_period, charge_date, charge_id
    from cost_allocations
    where match_method not in ('none', 'artifact_bytes')
  ) a
  join charge_lines c on c.source = a.source and c.billing_period = a.billing_period and c.charge_id = a.charge_id
  union distinct
  select source, billing_period, charge_date, charge_id
  from cost_allocations
  where not (allocated_to = 'out_of_scope' and match_method = 'none')
),
outside as (
  -- Sums, grouped by all columns with few distinct values. Prices, SKUs and eligibility appear only if all lines of a sum agree. Resources and
  -- tags never appear.
  select
    l.source, l.billing_period, l.charge_date, l.billing_account_id, l.billing_account_name, l.billing_currency, l.billing_period_start,
    l.billing_period_end, l.charge_category, l.charge_class, l.charge_frequency, l.host_provider_name, l.invoice_id, l.invoice_issuer_name,
    l.region_id, l.service_category, l.service_name, l.service_provider_name, l.sub_account_id, l.availability_zone, l.billing_account_type,
    l.capacity_reservation_id, l.capacity_reservation_status, l.commitment_discount_category, l.commitment_discount_id, l.commitment_discount_name,
    l.commitment_discount_status, l.commitment_discount_type, l.commitment_discount_unit, l.consumed_unit, l.pricing_category, l.pricing_currency,
    l.pricing_unit, l.region_name, l.service_subcategory, l.sub_account_name, l.sub_account_type,
    case when min(l.commitment_program_eligibility_details) = max(l.commitment_program_eligibility_details) and count(l.commitment_program_eligibility_details) = count(*) then min(l.commitment_program_eligibility_details) end as commitment_program_eligibility_details,
    case when min(l.contracted_unit_price) = max(l.contracted_unit_price) and count(l.contracted_unit_price) = count(*) then min(l.contracted_unit_price) end as contracted_unit_price,
    case when min(l.list_unit_price) = max(l.list_unit_price) and count(l.list_unit_price) = count(*) then min(l.list_unit_price) end as list_unit_price,
    case when min(l.pricing_currency_contracted_unit_price) = max(l.pricing_currency_contracted_unit_price) and count(l.pricing_currency_contracted_unit_price) = count(*) then min(l.pricing_currency_contracted_unit_price) end as pricing_currency_contracted_unit_price,
    case when min(l.pricing_currency_list_unit_price) = max(l.pricing_currency_list_unit_price) and count(l.pricing_currency_list_unit_price) = count(*) then min(l.pricing_currency_list_unit_price) end as pricing_currency_list_unit_price,
    case when min(l.sku_id) = max(l.sku_id) and count(l.sku_id) = count(*) then min(l.sku_id) end as sku_id,
    case when min(l.sku_meter) = max(l.sku_meter) and count(l.sku_meter) = count(*) then min(l.sku_meter) end as sku_meter,
    case when min(l.sku_price_id) = max(l.sku_price_id) and count(l.sku_price_id) = count(*) then min(l.sku_price_id) end as sku_price_id,
    count(*) as line_count, min(l.charge_period_start) as charge_period_start, max(l.charge_period_end) as charge_period_end,
    sum(l.billed_cost) as billed_cost, sum(l.contracted_cost) as contracted_cost, sum(l.effective_cost) as effective_cost, sum(l.list_cost) as list_cost,
    sum(l.commitment_discount_quantity) as commitment_discount_quantity, sum(l.consumed_quantity) as consumed_quantity,
    sum(l.pricing_quantity) as pricing_quantity, sum(l.pricing_currency_effective_cost) as pricing_currency_effective_cost
  from billing_lines l
  left join inside i on i.source = l.source and i.billing_period = l.billing_period and i.charge_date = l.charge_date and i.line_id = l.line_id
  left join stored s on s.source = l.source and s.billing_period = l.billing_period and s.line_id = l.line_id
  where i.line_id is null and s.line_id is null
  group by
    l.source, l.billing_period, l.charge_date, l.billing_account_id, l.billing_account_name, l.billing_currency, l.billing_period_start,
    l.billing_period_end, l.charge_category, l.charge_class, l.charge_frequency, l.host_provider_name, l.invoice_id, l.invoice_issuer_name,
    l.region_id, l.service_category, l.service_name, l.service_provider_name, l.sub_account_id, l.availability_zone, l.billing_account_type,
    l.capacity_reservation_id, l.capacity_reservation_status, l.commitment_discount_category, l.commitment_discount_id, l.commitment_discount_name,
    l.commitment_discount_status, l.commitment_discount_type, l.commitment_discount_unit, l.consumed_unit, l.pricing_category, l.pricing_currency,
    l.pricing_unit, l.region_name, l.service_subcategory, l.sub_account_name, l.sub_account_type
)
select
  billing_period as x_BillingPeriod,
  charge_date as x_ChargeDate,
  case when is_allocated then concat('{"Elements":[{"AllocatedRatio":', ratio_text, ',"x_AllocatedTo":"', allocated_to, '"',
    case when weight_kind is null then '' else concat(',"x_WeighedBy":"', weight_kind, '"') end,
    case when run_end_rule is null then '' else concat(',"x_RunEnd":"', run_end_rule, '"') end, '}]}') end as AllocatedMethodDetails,
  case when is_allocated then concat('runspend/', match_method) end as AllocatedMethodId,
  case when is_allocated and allocated_to in ('run', 'logged_model') then target_id end as AllocatedResourceId,
  case when is_allocated and allocated_to = 'run' then run_name end as AllocatedResourceName,
  case when is_allocated and allocated_to = 'run' then concat(
    -- As JSON. Control characters become spaces.
    '{"runspend:tracking_server":"', tracking_server, '"',
    case when experiment_name is null then '' else concat(',"runspend:experiment":"', replace(replace(regexp_replace(experiment_name, r'[[:cntrl:]]', ' '), '\\', '\\\\'), '"', '\\"'), '"') end,
    case when team is null then '' else concat(',"runspend:team":"', replace(replace(regexp_replace(team, r'[[:cntrl:]]', ' '), '\\', '\\\\'), '"', '\\"'), '"') end,
    case when project is null then '' else concat(',"runspend:project":"', replace(replace(regexp_replace(project, r'[[:cntrl:]]', ' '), '\\', '\\\\'), '"', '\\"'), '"') end,
    case when cost_center is null then '' else concat(',"runspend:cost_center":"', replace(replace(regexp_replace(cost_center, r'[[:cntrl:]]', ' '), '\\', '\\\\'), '"', '\\"'), '"') end,
    case when owner is null then '' else concat(',"runspend:owner":"', replace(replace(regexp_replace(owner, r'[[:cntrl:]]', ' '), '\\', '\\\\'), '"', '\\"'), '"') end,
    more_tags) end as AllocatedTags,
  availability_zone as AvailabilityZone,
  billed_cost as BilledCost,
  billing_account_id as BillingAccountId,
  billing_account_name as BillingAccountName,
  billing_account_type as BillingAccountType,
  billing_currency as BillingCurrency,
  billing_period_end as BillingPeriodEnd,
  billing_period_start as BillingPeriodStart,
  capacity_reservation_id as CapacityReservationId,
  capacity_reservation_status as CapacityReservationStatus,
  charge_category as ChargeCategory,
  charge_class as ChargeClass,
  charge_description as ChargeDescription,
  charge_frequency as ChargeFrequency,
  charge_period_end as ChargePeriodEnd,
  charge_period_start as ChargePeriodStart,
  commitment_discount_category as CommitmentDiscountCategory,
  commitment_discount_id as CommitmentDiscountId,
  commitment_discount_name as CommitmentDiscountName,
  case when is_last then commitment_discount_quantity else exact_money(commitment_discount_quantity_to) end
    - case when ratio_from = 0 then bignumeric '0' else exact_money(commitment_discount_quantity_from) end as CommitmentDiscountQuantity,
  commitment_discount_status as CommitmentDiscountStatus,
  commitment_discount_type as CommitmentDiscountType,
  commitment_discount_unit as CommitmentDiscountUnit,
  commitment_program_eligibility_details as CommitmentProgramEligibilityDetails,
  case when is_last then consumed_quantity else exact_money(consumed_quantity_to) end
    - case when ratio_from = 0 then bignumeric '0' else exact_money(consumed_quantity_from) end as ConsumedQuantity,
  consumed_unit as ConsumedUnit,
  contract_applied as ContractApplied,
  contracted_cost as ContractedCost,
  contracted_unit_price as ContractedUnitPrice,
  effective_cost as EffectiveCost,
  host_provider_name as HostProviderName,
  invoice_detail_id as InvoiceDetailId,
  invoice_id as InvoiceId,
  invoice_issuer_name as InvoiceIssuerName,
  list_cost as ListCost,
  list_unit_price as ListUnitPrice,
  pricing_category as PricingCategory,
  pricing_currency as PricingCurrency,
  pricing_currency_contracted_unit_price as PricingCurrencyContractedUnitPrice,
  case when is_last then pricing_currency_effective_cost else exact_money(pricing_currency_effective_cost_to) end
    - case when ratio_from = 0 then bignumeric '0' else exact_money(pricing_currency_effective_cost_from) end as PricingCurrencyEffectiveCost,
  pricing_currency_list_unit_price as PricingCurrencyListUnitPrice,
  case when is_last then pricing_quantity else exact_money(pricing_quantity_to) end
    - case when ratio_from = 0 then bignumeric '0' else exact_money(pricing_quantity_from) end as PricingQuantity,
  pricing_unit as PricingUnit,
  coalesce(host_provider_name, service_provider_name) as ProviderName,
  service_provider_name as PublisherName,
  region_id as RegionId,
  region_name as RegionName,
  resource_id as ResourceId,
  resource_name as ResourceName,
  resource_type as ResourceType,
  service_category as ServiceCategory,
  service_name as ServiceName,
  service_provider_name as ServiceProviderName,
  coalesce(service_subcategory, concat('Other (', service_category, ')')) as ServiceSubcategory,
  sku_id as SkuId,
  sku_meter as SkuMeter,
  sku_price_details as SkuPriceDetails,
  sku_price_id as SkuPriceId,
  sub_account_id as SubAccountId,
  sub_account_name as SubAccountName,
  sub_account_type as SubAccountType,
  tags as Tags,
  source as x_Source,
  charge_id as x_OriginChargeId,
  line_count as x_LineCount,
  allocated_to as x_AllocatedTo,
  match_method as x_MatchMethod,
  confidence as x_Confidence,
  cost_kind as x_CostKind,
  cost_status as x_CostStatus,
  reason as x_Reason,
  pool_key as x_PoolKey,
  tracking_server as x_TrackingServer,
  workspace as x_Workspace,
  run_id as x_RunId,
  experiment_id as x_ExperimentId,
  experiment_name as x_ExperimentName,
  team as x_Team,
  project as x_Project,
  cost_center as x_CostCenter,
  owner as x_Owner
from split
union all
select
  billing_period, charge_date, cast(null as string), cast(null as string), cast(null as string), cast(null as string), cast(null as string),
  availability_zone, billed_cost, billing_account_id, billing_account_name, billing_account_type, billing_currency, billing_period_end,
  billing_period_start, capacity_reservation_id, capacity_reservation_status, charge_category, charge_class,
  concat(cast(line_count as string), ' lines out of scope'), charge_frequency, charge_period_end, charge_period_start, commitment_discount_category,
  commitment_discount_id, commitment_discount_name, commitment_discount_quantity, commitment_discount_status, commitment_discount_type,
  commitment_discount_unit, commitment_program_eligibility_details, consumed_quantity, consumed_unit, cast(null as string), contracted_cost,
  contracted_unit_price, effective_cost, host_provider_name, cast(null as string), invoice_id, invoice_issuer_name, list_cost, list_unit_price,
  pricing_category, pricing_currency, pricing_currency_contracted_unit_price, pricing_currency_effective_cost, pricing_currency_list_unit_price,
  pricing_quantity, pricing_unit, coalesce(host_provider_name, service_provider_name), service_provider_name, region_id, region_name,
  cast(null as string), cast(null as string), cast(null as string), service_category, service_name, service_provider_name,
  coalesce(service_subcategory, concat('Other (', service_category, ')')), sku_id, sku_meter, cast(null as string), sku_price_id, sub_account_id,
  sub_account_name, sub_account_type, cast(null as string), source, cast(null as string), line_count, 'out_of_scope', 'none', cast(null as string),
  cast(null as string), cast(null as string), cast(null as string), cast(null as string), cast(null as string), cast(null as string),
  cast(null as string), cast(null as string), cast(null as string), cast(null as string), cast(null as string), cast(null as string),
  cast(null as string)
from outside
