-- one row per line that a pool or an instance type may allocate by time, with its charge period (an hour if it fits in one).
-- Lines of a type are split into cells by the properties that runs state with the type, and only by those:
-- account, region, zone, purchase option.
with settled as (
  select source, line_id from attached_lines
  union distinct
  select source, line_id from storage_lines
  union distinct
  select source, line_id from llm_lines
),
cut_types as (
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
placed as (
  select
    l.source, l.line_id, l.resource_key, w.instance_type, w.by_account, w.by_region, w.by_zone, w.by_option,
    case when w.by_account then regexp_replace(lower(l.sub_account_id), r'^/?(subscriptions|projects)/', '') end as account,
    case when w.by_region then lower(l.region_id) end as region,
    z.zone,
    case
      when not w.by_option then cast(null as string)
      when l.pricing_category = 'Dynamic' then 'spot'
      when l.pricing_category in ('Standard', 'Committed') then 'on_demand'
    end as purchase_option
  from rest_lines l
  join cut_types w on w.instance_type = lower(l.instance_type)
  left join zones z on z.source = l.source and z.line_id = l.line_id
  where l.pool_key is null
),
machines as (
  -- A credit or discount states less than the usage of its machine.
  select
    resource_key, instance_type,
    case when min(account) = max(account) then min(account) end as account, case when min(region) = max(region) then min(region) end as region,
    case when min(zone) = max(zone) then min(zone) end as zone,
    case when min(purchase_option) = max(purchase_option) then min(purchase_option) end as purchase_option
  from placed
  where resource_key is not null
  group by resource_key, instance_type
),
cells as (
  select
    p.source, p.line_id, p.instance_type, p.by_account, p.by_region, p.by_zone, p.by_option,
    coalesce(p.account, m.account) as account, coalesce(p.region, m.region) as region, coalesce(p.zone, m.zone) as zone,
    coalesce(p.purchase_option, m.purchase_option) as purchase_option
  from placed p
  left join machines m on m.resource_key = p.resource_key and m.instance_type = p.instance_type
)
select
  case when l.pool_key is not null then 'pool_time' else 'instance_type_time' end as match_method,
  case
    when l.pool_key is not null then l.pool_key
    when c.line_id is null then lower(l.instance_type)
    else concat(
      replace(c.instance_type, '|', '||'),
      case when c.by_account then concat('|account ', coalesce(replace(c.account, '|', '||'), '?')) else '' end,
      case when c.by_region then concat('|', coalesce(replace(c.region, '|', '||'), 'region ?')) else '' end,
      case when c.by_zone then concat('|', coalesce(replace(c.zone, '|', '||'), 'zone ?')) else '' end,
      case when c.by_option then concat('|', coalesce(c.purchase_option, 'option ?')) else '' end)
  end as target_key,
  case
    when l.charge_period_end <= timestamp_add(timestamp_trunc(l.charge_period_start, hour), interval 1 hour) then timestamp_trunc(l.charge_period_start, hour)
    else l.charge_period_start
  end as window_start,
  case
    when l.charge_period_end <= timestamp_add(timestamp_trunc(l.charge_period_start, hour), interval 1 hour)
      then timestamp_add(timestamp_trunc(l.charge_period_start, hour), interval 1 hour)
    else l.charge_period_end
  end as window_end,
  l.source, l.line_id, l.charge_period_start, l.charge_period_end, l.sub_account_id, l.region_id, l.resource_key, l.charge_category, l.charge_class,
  l.cost_kind, l.sku_id, l.billed_nanoseconds, l.free_nanoseconds, l.known_by, l.instance_type, l.machine_gpus, l.machine_cpus, l.machine_memory_gb,
  l.service_name, l.billing_currency, l.effective_cost,
  l.pricing_category, c.account as cell_account, c.region as cell_region, c.zone as cell_zone, c.purchase_option as cell_option
from rest_lines l
left join settled s on s.source = l.source and s.line_id = l.line_id
left join cells c on c.source = l.source and c.line_id = l.line_id
where s.line_id is null
  and (l.pool_key is not null or l.instance_type is not null)
  and l.line_kind <> 'fee' and coalesce(l.scope, '') <> 'exclude'
  and l.charge_period_end > l.charge_period_start
  and timestamp_diff(l.charge_period_end, l.charge_period_start, microsecond) <= 90000000000
