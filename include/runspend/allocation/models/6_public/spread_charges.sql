-- one row per day of charges longer than a day and combination of the columns of cost_daily before the costs.
-- The cost is spread evenly, exact to the last decimal
with numbered as (
  -- Names are long and there are many days, so a number replaces the names while the cost is spread.
  select
    source, billing_period, service_provider_name, billing_account_id, sub_account_id, region_id, service_name, charge_category, cost_kind, allocated_to,
    tracking_server, workspace, experiment_id, experiment_name, team, project, cost_center, owner, user_name, confidence, cost_status, billing_currency, charge_date, days, list_cost, contracted_cost, effective_cost, billed_cost,
    cast(cast(list_cost as string) as float64) as list_float,
    cast(cast(contracted_cost as string) as float64) as contracted_float,
    cast(cast(effective_cost as string) as float64) as effective_float,
    cast(cast(billed_cost as string) as float64) as billed_float,
    dense_rank() over (order by
      source, billing_period, service_provider_name, billing_account_id, sub_account_id, region_id, service_name, charge_category, cost_kind, allocated_to,
      tracking_server, workspace, experiment_id, experiment_name, team, project, cost_center, owner, user_name, confidence, cost_status, billing_currency) as number
  from long_charges
),
names as (
  select
    source, billing_period, service_provider_name, billing_account_id, sub_account_id, region_id, service_name, charge_category, cost_kind, allocated_to,
    tracking_server, workspace, experiment_id, experiment_name, team, project, cost_center, owner, user_name, confidence, cost_status, billing_currency, number
  from numbered
  qualify row_number() over (partition by number order by charge_date, days) = 1
),
alike as (
  select number, count(*) as charges
  from numbered
  group by number
),
floats as (
  select
    n.number, a.charges = 1 as is_alone, day, day = charge_date as is_first, date_diff(day, charge_date, day) + 1 = days as is_last,
    list_cost, contracted_cost, effective_cost, billed_cost,
    list_float * (date_diff(day, charge_date, day) / days) as list_before, list_float * ((date_diff(day, charge_date, day) + 1) / days) as list_upto,
    contracted_float * (date_diff(day, charge_date, day) / days) as contracted_before, contracted_float * ((date_diff(day, charge_date, day) + 1) / days) as contracted_upto,
    effective_float * (date_diff(day, charge_date, day) / days) as effective_before, effective_float * ((date_diff(day, charge_date, day) + 1) / days) as effective_upto,
    billed_float * (date_diff(day, charge_date, day) / days) as billed_before, billed_float * ((date_diff(day, charge_date, day) + 1) / days) as billed_upto
  from numbered n
  join alike a on a.number = n.number
  cross join unnest(generate_date_array(charge_date, date_add(charge_date, interval days - 1 day))) as day
),
parts as (
  -- A day gets its bound minus the bound of the previous day. Each bound comes from the same float product, converted to a decimal in the same way.
  select
    number, is_alone, day,
    case when is_last then list_cost else exact_money(list_upto) end
      - case when is_first then bignumeric '0' else exact_money(list_before) end as list_cost,
    case when is_last then contracted_cost else exact_money(contracted_upto) end
      - case when is_first then bignumeric '0' else exact_money(contracted_before) end as contracted_cost,
    case when is_last then effective_cost else exact_money(effective_upto) end
      - case when is_first then bignumeric '0' else exact_money(effective_before) end as effective_cost,
    case when is_last then billed_cost else exact_money(billed_upto) end
      - case when is_first then bignumeric '0' else exact_money(billed_before) end as billed_cost
  from floats
),
spread as (
  -- Most days have only one row. Only days with several rows are summed.
  select number, day, list_cost, contracted_cost, effective_cost, billed_cost
  from parts
  where is_alone
  union all
  select number, day, sum(list_cost) as list_cost, sum(contracted_cost) as contracted_cost, sum(effective_cost) as effective_cost, sum(billed_cost) as billed_cost
  from parts
  where not is_alone
  group by number, day
)
select
  source, billing_period, service_provider_name, billing_account_id, sub_account_id, region_id, service_name, charge_category, cost_kind, allocated_to,
  tracking_server, workspace, experiment_id, experiment_name, team, project, cost_center, owner, user_name, confidence, cost_status, billing_currency, day as charge_date, true as is_spread,
  list_cost, contracted_cost, effective_cost, billed_cost
from spread
join names using (number)
