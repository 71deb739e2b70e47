-- one row per charge date and combination of the columns before the costs
with short as (
  select
    source, billing_period, service_provider_name, billing_account_id, sub_account_id, region_id, service_name, charge_category, cost_kind, allocated_to,
    tracking_server, workspace, run_id, confidence, cost_status, billing_currency, charge_date, false as is_spread,
    sum(list_cost) as list_cost, sum(contracted_cost) as contracted_cost, sum(effective_cost) as effective_cost, sum(billed_cost) as billed_cost
  from cost_allocations
  where billing_period = @period
    and (allocated_to = 'out_of_scope' or timestamp_diff(charge_period_end, charge_period_start, microsecond) <= 86400000000)
  group by
    source, billing_period, service_provider_name, billing_account_id, sub_account_id, region_id, service_name, charge_category, cost_kind, allocated_to,
    tracking_server, workspace, run_id, confidence, cost_status, billing_currency, charge_date
),
long as (
  -- charges longer than a day, summed before they are spread: all of one window spread alike
  select
    source, billing_period, service_provider_name, billing_account_id, sub_account_id, region_id, service_name, charge_category, cost_kind, allocated_to,
    tracking_server, workspace, run_id, confidence, cost_status, billing_currency, charge_date,
    date_diff(date(timestamp_sub(charge_period_end, interval 1 microsecond)), charge_date, day) + 1 as days,
    sum(list_cost) as list_cost, sum(contracted_cost) as contracted_cost, sum(effective_cost) as effective_cost, sum(billed_cost) as billed_cost
  from cost_allocations
  where billing_period = @period
    and allocated_to <> 'out_of_scope' and timestamp_diff(charge_period_end, charge_period_start, microsecond) > 86400000000
  group by
    source, billing_period, service_provider_name, billing_account_id, sub_account_id, region_id, service_name, charge_category, cost_kind, allocated_to,
    tracking_server, workspace, run_id, confidence, cost_status, billing_currency, charge_date, days
),
floats as (
  select
    c.source, c.billing_period, c.service_provider_name, c.billing_account_id, c.sub_account_id, c.region_id, c.service_name, c.charge_category, c.cost_kind, c.allocated_to, c.tracking_server, c.workspace, c.run_id, c.confidence, c.cost_status, c.billing_currency, c.days, day,
    date_diff(day, c.charge_date, day) as day_number,
    c.list_cost, cast(cast(c.list_cost as string) as float64) * (date_diff(day, c.charge_date, day) / c.days) as list_before, cast(cast(c.list_cost as string) as float64) * ((date_diff(day, c.charge_date, day) + 1) / c.days) as list_upto,
    c.contracted_cost, cast(cast(c.contracted_cost as string) as float64) * (date_diff(day, c.charge_date, day) / c.days) as contracted_before, cast(cast(c.contracted_cost as string) as float64) * ((date_diff(day, c.charge_date, day) + 1) / c.days) as contracted_upto,
    c.effective_cost, cast(cast(c.effective_cost as string) as float64) * (date_diff(day, c.charge_date, day) / c.days) as effective_before, cast(cast(c.effective_cost as string) as float64) * ((date_diff(day, c.charge_date, day) + 1) / c.days) as effective_upto,
    c.billed_cost, cast(cast(c.billed_cost as string) as float64) * (date_diff(day, c.charge_date, day) / c.days) as billed_before, cast(cast(c.billed_cost as string) as float64) * ((date_diff(day, c.charge_date, day) + 1) / c.days) as billed_upto
  from long c
  cross join unnest(generate_date_array(c.charge_date, date_add(c.charge_date, interval c.days - 1 day))) as day
),
spread as (
  select
    source, billing_period, service_provider_name, billing_account_id, sub_account_id, region_id, service_name, charge_category, cost_kind, allocated_to,
    tracking_server, workspace, run_id, confidence, cost_status, billing_currency, day as charge_date, true as is_spread,
    case when day_number + 1 = days then list_cost else cast(cast(trunc(list_upto) as int64) + cast(round((list_upto - trunc(list_upto)) * 1e18) as int64) * bignumeric '0.000000000000000001' as bignumeric) end
      - case when day_number = 0 then bignumeric '0' else cast(cast(trunc(list_before) as int64) + cast(round((list_before - trunc(list_before)) * 1e18) as int64) * bignumeric '0.000000000000000001' as bignumeric) end as list_cost,
    case when day_number + 1 = days then contracted_cost else cast(cast(trunc(contracted_upto) as int64) + cast(round((contracted_upto - trunc(contracted_upto)) * 1e18) as int64) * bignumeric '0.000000000000000001' as bignumeric) end
      - case when day_number = 0 then bignumeric '0' else cast(cast(trunc(contracted_before) as int64) + cast(round((contracted_before - trunc(contracted_before)) * 1e18) as int64) * bignumeric '0.000000000000000001' as bignumeric) end as contracted_cost,
    case when day_number + 1 = days then effective_cost else cast(cast(trunc(effective_upto) as int64) + cast(round((effective_upto - trunc(effective_upto)) * 1e18) as int64) * bignumeric '0.000000000000000001' as bignumeric) end
      - case when day_number = 0 then bignumeric '0' else cast(cast(trunc(effective_before) as int64) + cast(round((effective_before - trunc(effective_before)) * 1e18) as int64) * bignumeric '0.000000000000000001' as bignumeric) end as effective_cost,
    case when day_number + 1 = days then billed_cost else cast(cast(trunc(billed_upto) as int64) + cast(round((billed_upto - trunc(billed_upto)) * 1e18) as int64) * bignumeric '0.000000000000000001' as bignumeric) end
      - case when day_number = 0 then bignumeric '0' else cast(cast(trunc(billed_before) as int64) + cast(round((billed_before - trunc(billed_before)) * 1e18) as int64) * bignumeric '0.000000000000000001' as bignumeric) end as billed_cost
  from floats
),
days as (
  select
    source, billing_period, service_provider_name, billing_account_id, sub_account_id, region_id, service_name, charge_category, cost_kind, allocated_to,
    tracking_server, workspace, run_id, confidence, cost_status, billing_currency, charge_date, is_spread, list_cost, contracted_cost, effective_cost, billed_cost
  from short
  union all
  select
    source, billing_period, service_provider_name, billing_account_id, sub_account_id, region_id, service_name, charge_category, cost_kind, allocated_to,
    tracking_server, workspace, run_id, confidence, cost_status, billing_currency, charge_date, is_spread, list_cost, contracted_cost, effective_cost, billed_cost
  from spread
)
select
  d.source, d.billing_period, d.charge_date, d.service_provider_name, d.billing_account_id, d.sub_account_id, d.region_id, d.service_name,
  d.charge_category, d.cost_kind, d.allocated_to, d.tracking_server, d.workspace, r.experiment_id, r.experiment_name,
  r.team, r.project, r.cost_center, r.owner, r.user_name, d.confidence, d.cost_status, d.billing_currency, d.is_spread,
  sum(d.list_cost) as list_cost, sum(d.contracted_cost) as contracted_cost, sum(d.effective_cost) as effective_cost, sum(d.billed_cost) as billed_cost
from days d
left join runs r on r.tracking_server = d.tracking_server and r.workspace = d.workspace and r.run_id = d.run_id
group by
  d.source, d.billing_period, d.charge_date, d.service_provider_name, d.billing_account_id, d.sub_account_id, d.region_id, d.service_name,
  d.charge_category, d.cost_kind, d.allocated_to, d.tracking_server, d.workspace, r.experiment_id, r.experiment_name,
  r.team, r.project, r.cost_center, r.owner, r.user_name, d.confidence, d.cost_status, d.billing_currency, d.is_spread
