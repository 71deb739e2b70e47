-- one row per machine that runs state, and per instance type that runs without a machine ask for:
-- its bill, the time until which this bill is complete, and its price
with stated as (
  select s.resource_key, max(s.resource_id) as resource_id, max(lower(w.instance_type)) as instance_type
  from stated_machines s
  join (select distinct resource_key from estimate_open where resource_key is not null) o on o.resource_key = s.resource_key
  left join window_runs w on w.tracking_server = s.tracking_server and w.run_id = s.run_id
  group by s.resource_key
),
shown as (
  -- The bill on which the machine was last.
  select resource_key, source, account, resource_id, instance_type, region_id, pricing_category, machine_gpus
  from estimate_windows
  where is_usage
  qualify row_number() over (partition by resource_key order by charge_period_end desc, source, account, charge_period_start, billing_currency) = 1
),
sellers as (
  -- Types that are on only one bill.
  select instance_type, min(source) as only_source
  from estimate_seen
  where used_until is not null and instance_type is not null
  group by instance_type
  having count(distinct source) = 1
),
things as (
  select
    s.resource_key, coalesce(b.resource_id, s.resource_id) as resource_id, coalesce(b.instance_type, s.instance_type) as instance_type,
    coalesce(b.source, c.only_source) as source, b.account, b.region_id, b.pricing_category, b.machine_gpus,
    case when b.resource_key is not null then coalesce(b.instance_type, concat('machine ', s.resource_key)) else s.instance_type end as machine_type
  from stated s
  left join shown b on b.resource_key = s.resource_key
  left join sellers c on c.instance_type = s.instance_type and b.resource_key is null
  union all
  select
    concat('type ', t.instance_type), cast(null as string), t.instance_type, c.only_source, cast(null as string), cast(null as string), cast(null as string),
    cast(null as int64), t.instance_type
  from (select distinct instance_type from estimate_claims where instance_type is not null) t
  left join sellers c on c.instance_type = t.instance_type
),
sizes as (
  select resource_key, max(machines) as machines
  from estimate_seen
  group by resource_key
),
reaches as (
  select source, max(billed_until) as billed_until
  from estimate_frontiers
  where starts_with(part, 'account ')
  group by source
),
everywhere as (
  -- Hours before the time until which every bill is complete are on one of the bills, or on none.
  select coalesce(min(billed_until), @month_start) as billed_until from reaches
),
listed as (
  select t.resource_key, l.billing_currency, l.hour_price
  from things t
  join price_list l on lower(l.instance_type) = t.instance_type
    and (l.region_id = '' or l.region_id = t.region_id) and (l.pricing_category = '' or l.pricing_category = t.pricing_category)
  qualify row_number() over (
    partition by t.resource_key
    order by case when l.region_id = '' then 1 else 0 end, case when l.pricing_category = '' then 1 else 0 end, l.billing_currency, l.region_id, l.pricing_category) = 1
),
priced as (
  select
    t.resource_key, t.resource_id, t.instance_type, coalesce(t.source, 'rates') as source, t.account, t.region_id, t.machine_gpus,
    coalesce(f.billed_until, e.billed_until) as billed_until, coalesce(z.machines, 1.0) as machines,
    p.effective_cost is not null as is_billed, l.hour_price is not null as is_listed,
    coalesce(p.billing_currency, l.billing_currency) as billing_currency,
    case when p.effective_cost is not null then p.list_cost else l.hour_price end as list_cost,
    case when p.effective_cost is not null then p.contracted_cost else l.hour_price end as contracted_cost,
    case when p.effective_cost is not null then p.effective_cost else l.hour_price end as effective_cost,
    case when p.effective_cost is not null then p.billed_cost else l.hour_price end as billed_cost
  from things t
  cross join everywhere e
  left join estimate_frontiers f
    on f.source = t.source and f.part = case when t.account is not null then concat('account ', t.account) else concat('type ', t.instance_type) end
  left join estimate_prices p
    on p.source = t.source and p.machine_type = t.machine_type
    and p.region_id = coalesce(t.region_id, '*') and p.pricing_category = coalesce(t.pricing_category, '*')
  left join listed l on l.resource_key = t.resource_key
  left join sizes z on z.resource_key = t.resource_key
)
select
  resource_key, resource_id, instance_type, source, account, nullif(region_id, '') as region_id, machine_gpus, machines, billed_until,
  billing_currency, list_cost, contracted_cost, effective_cost, billed_cost,
  case when is_billed then 'bill' when is_listed then 'rates' end as price_from,
  case when is_billed or is_listed then cast(null as string) when instance_type is null then 'no_instance_type' else 'no_price' end as reason
from priced
