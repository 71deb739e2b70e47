-- one row per shared or idle cost that `sharing` distributes and target:
-- its amount for a run of the same bill, or the same amount as a subtraction
with pots as (
  select
    source, billing_currency, allocated_to,
    case allocated_to when 'shared' then @share_shared else @share_idle end as policy,
    sum(list_cost) as list_cost, sum(contracted_cost) as contracted_cost, sum(effective_cost) as effective_cost, sum(billed_cost) as billed_cost
  from cost_allocations
  where billing_period = @period and allocated_to in ('shared', 'idle') and (@share_shared <> 'keep' or @share_idle <> 'keep')
  group by source, billing_currency, allocated_to
),
runs_charged as (
  select
    source, billing_currency, tracking_server, workspace, run_id,
    cast(round(cast(cast(sum(effective_cost) as string) as float64) * 1e6) as int64) as micros,
    -- Stored bytes, and corrections of an earlier month, do not show that a run was active in this month.
    case when logical_or(match_method <> 'artifact_bytes' and (charge_date >= @period or charge_period_end > timestamp(@period))) then 1 else 0 end as ran
  from cost_allocations
  where billing_period = @period and allocated_to = 'run' and (@share_shared <> 'keep' or @share_idle <> 'keep')
  group by source, billing_currency, tracking_server, workspace, run_id
),
parts as (
  select
    p.source, p.billing_currency, p.allocated_to as pot, p.policy, r.tracking_server, r.workspace, r.run_id,
    case p.policy when 'even' then r.ran else r.micros end as weight
  from pots p
  join runs_charged r on r.source = p.source and r.billing_currency = p.billing_currency
  where p.policy in ('proportional', 'even')
),
running as (
  select
    source, billing_currency, pot, policy, tracking_server, workspace, run_id, weight,
    cast(sum(weight) over (w rows between unbounded preceding and current row) as int64) as upto,
    cast(sum(weight) over (partition by source, billing_currency, pot) as int64) as total
  from parts
  where weight > 0
  window w as (partition by source, billing_currency, pot order by tracking_server, workspace, run_id)
),
rows_of_pots as (
  select
    r.source, r.billing_currency, r.pot, r.policy, 'run' as allocated_to, r.tracking_server, r.workspace, r.run_id,
    (r.upto - r.weight) / r.total as ratio_from, r.upto / r.total as ratio_to, r.upto = r.total as is_last,
    p.list_cost, p.contracted_cost, p.effective_cost, p.billed_cost
  from running r
  join pots p on p.source = r.source and p.billing_currency = r.billing_currency and p.allocated_to = r.pot
  union all
  select
    p.source, p.billing_currency, p.allocated_to, p.policy, p.allocated_to, cast(null as string), cast(null as string), cast(null as string),
    0.0, 1.0, true,
    -p.list_cost, -p.contracted_cost, -p.effective_cost, -p.billed_cost
  from pots p
  join (select distinct source, billing_currency, pot from running) r on r.source = p.source and r.billing_currency = p.billing_currency and r.pot = p.allocated_to
)
select
  source, @period as billing_period, concat('sharing|', pot, '|', billing_currency) as charge_id, @period as charge_date,
  timestamp(@period) as charge_period_start, timestamp(date_add(@period, interval 1 month)) as charge_period_end,
  cast(null as string) as service_provider_name, cast(null as string) as billing_account_id, cast(null as string) as sub_account_id,
  cast(null as string) as region_id, cast(null as string) as service_name, 'Adjustment' as charge_category, cast(null as string) as resource_id,
  cast(null as string) as invoice_id, 'other' as cost_kind, billing_currency, list_cost, contracted_cost, effective_cost, billed_cost,
  allocated_to, tracking_server, workspace, run_id, cast(null as string) as owner_id, 'sharing' as match_method, cast(null as string) as confidence,
  policy as reason, pot as pool_key, cast(null as string) as weight_kind, cast(null as string) as run_end_rule, false as is_scaled,
  ratio_from, ratio_to, is_last,
  case when ratio_from > 0 or not is_last then cast(cast(list_cost as string) as float64) end as list_float,
  case when ratio_from > 0 or not is_last then cast(cast(contracted_cost as string) as float64) end as contracted_float,
  case when ratio_from > 0 or not is_last then cast(cast(effective_cost as string) as float64) end as effective_float,
  case when ratio_from > 0 or not is_last then cast(cast(billed_cost as string) as float64) end as billed_float,
  1.0 as charge_part, cast(null as float64) as unused_ratio, cast(null as float64) as overhead_ratio,
  cast(null as string) as line_team, cast(null as string) as line_project, cast(null as string) as line_cost_center, cast(null as string) as line_owner
from rows_of_pots
