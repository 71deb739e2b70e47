-- one row per line of an instance type for which runs state further properties: these properties, and the key of its cell.
-- The lines of a type are divided into cells by account, region, zone and purchase option. Only properties that runs state together with the
-- type are used.
with cut_types as (
  select instance_type, by_account, by_region, by_zone, by_option
  from wanted_types
  where by_account or by_region or by_zone or by_option
),
zones as (
  select b.source, b.line_id, lower(b.availability_zone) as zone
  from billing_lines b
  join (select instance_type from cut_types where by_zone) w on w.instance_type = lower(b.instance_type)
  where b.billing_period = @period and b.availability_zone is not null
),
described_lines as (
  select
    l.source, l.line_id, l.resource_key, l.charge_period_start, l.charge_period_end, l.month, w.instance_type, w.by_account, w.by_region, w.by_zone, w.by_option,
    case when w.by_account then regexp_replace(lower(l.sub_account_id), r'^/?(subscriptions|projects)/', '') end as account,
    case when w.by_region then lower(l.region_id) end as region,
    z.zone,
    case when w.by_option then purchase_option(l.pricing_category) end as purchase_option
  from ledger_lines l
  join cut_types w on w.instance_type = lower(l.instance_type)
  left join zones z on z.source = l.source and z.line_id = l.line_id
  where l.pool_key is null and (l.allocated_by = 'rest' or l.is_offered)
),
machines as (
  -- A credit or discount has fewer properties than the usage lines of its machine.
  select
    resource_key, instance_type,
    case when min(account) = max(account) then min(account) end as account, case when min(region) = max(region) then min(region) end as region,
    case when min(zone) = max(zone) then min(zone) end as zone,
    case when min(purchase_option) = max(purchase_option) then min(purchase_option) end as purchase_option
  from described_lines
  where resource_key is not null
  group by resource_key, instance_type
),
cells as (
  select
    p.source, p.line_id, p.instance_type, p.by_account, p.by_region, p.by_zone, p.by_option,
    coalesce(p.account, m.account) as account,
    coalesce(p.region, case when p.by_region then e.region_id end, m.region) as region,
    coalesce(p.zone, case when p.by_zone then e.availability_zone end, m.zone) as zone,
    coalesce(p.purchase_option, case when p.by_option then e.purchase_option end, m.purchase_option) as purchase_option
  from described_lines p
  left join machines m on m.resource_key = p.resource_key and m.instance_type = p.instance_type
  left join earlier_properties e
    on e.resource_key = p.resource_key and e.month = p.month and e.charge_period_start = p.charge_period_start and e.charge_period_end = p.charge_period_end
)
select
  source, line_id, account as cell_account, region as cell_region, zone as cell_zone, purchase_option as cell_option,
  concat(
    replace(instance_type, '|', '||'),
    case when by_account then concat('|account ', coalesce(replace(account, '|', '||'), '?')) else '' end,
    case when by_region then concat('|', coalesce(replace(region, '|', '||'), 'region ?')) else '' end,
    case when by_zone then concat('|', coalesce(replace(zone, '|', '||'), 'zone ?')) else '' end,
    case when by_option then concat('|', coalesce(purchase_option, 'option ?')) else '' end) as target_key
from cells
