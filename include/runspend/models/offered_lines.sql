-- one row per line, or rest of a line, of a machine that runs state, in a window that has targets of a pool or an instance type: how wide it lies
-- along them, and whether a run may have a part of it. In charge_parts, machines that runs state lie before all others, and runs before what no run
-- asked for: so the lines after the last run's end are idle as they are, and need not be laid there.
with targets as (
  select match_method, target_key, window_start, window_end, run_id, weight_kind, is_scaled, ratio_upto from pool_targets
  union all
  select match_method, target_key, window_start, window_end, run_id, weight_kind, is_scaled, ratio_upto from type_targets
),
windows as (
  select
    match_method, target_key, window_start, window_end,
    max(case when run_id is not null then ratio_upto else 0.0 end) as asked_upto,
    max(case when run_id is null then weight_kind end) as weight_kind, logical_or(run_id is null and is_scaled) as is_scaled,
    row_number() over (order by match_method, target_key, window_start, window_end) as window_number
  from targets
  group by match_method, target_key, window_start, window_end
),
lines as (
  select
    w.window_number, c.source, c.line_id, c.known_by, c.billing_currency, c.cost_kind, c.service_name, c.charge_category, c.effective_cost,
    c.service_provider_name, c.billing_account_id, c.sub_account_id, c.region_id, c.invoice_id, c.is_inside, c.line_team, c.line_project, c.line_cost_center, c.line_owner, c.resource_key,
    case when c.effective_cost > 0 then 1 when c.effective_cost < 0 then -1 else 0 end as cost_sign
  from timed_candidates c
  join windows w on w.match_method = c.match_method and w.target_key = c.target_key and w.window_start = c.window_start and w.window_end = c.window_end
),
axes as (
  -- the axes of charge_parts
  select
    window_number, source, billing_currency, cost_kind, service_name, charge_category, cost_sign,
    row_number() over (order by window_number, source, billing_currency, cost_kind, service_name, charge_category, cost_sign) as axis_number,
    count(*) as lines, countif(known_by is null) as lines_of_strangers, cast(cast(sum(effective_cost) as string) as float64) as effective_float
  from lines
  group by window_number, source, billing_currency, cost_kind, service_name, charge_category, cost_sign
  having countif(known_by is not null) > 0
),
wide as (
  select
    a.axis_number, a.lines, a.lines_of_strangers, l.window_number, l.source, l.line_id, l.billing_currency, l.cost_kind, l.service_name, l.charge_category,
    l.cost_sign, l.effective_cost,
    l.service_provider_name, l.billing_account_id, l.sub_account_id, l.region_id, l.invoice_id, l.is_inside, l.line_team, l.line_project, l.line_cost_center, l.line_owner, l.resource_key,
    case
      when l.cost_sign = 0 then 1
      else greatest(1, cast(round(cast(cast(l.effective_cost as string) as float64) / a.effective_float * 2251799813685248.0) as int64))
    end as width
  from lines l
  join axes a
    on a.window_number = l.window_number and a.source = l.source and a.billing_currency = l.billing_currency and a.cost_kind = l.cost_kind
    and a.service_name is not distinct from l.service_name and a.charge_category = l.charge_category and a.cost_sign = l.cost_sign
  where l.known_by is not null
),
laid as (
  -- in the order of the charges that these lines are part of
  select
    *, cast(sum(width) over (w rows between unbounded preceding and current row) as int64) - width as starts_at, dense_rank() over w as charge_number
  from wide
  window w as (
    partition by axis_number
    order by service_provider_name, billing_account_id, sub_account_id, region_id, invoice_id, is_inside, line_team, line_project,
      line_cost_center, line_owner, resource_key)
),
known as (
  select axis_number, max(charge_number) as charges
  from laid
  group by axis_number
),
reached as (
  -- lines that are one charge there are rounded together, by less than four units a line; charges that cost nothing have all the same width
  select l.axis_number, max(l.charge_number) as last_charge
  from laid l
  join windows w on w.window_number = l.window_number
  join known k on k.axis_number = l.axis_number
  where w.asked_upto > 0 and case
    when l.cost_sign = 0 then l.charge_number - 1 <= w.asked_upto * (k.charges + l.lines_of_strangers)
    else l.starts_at < w.asked_upto * 2251799813685248.0 + 4 * l.lines
  end
  group by l.axis_number
)
select
  w.match_method, w.target_key, w.window_start, w.window_end, w.weight_kind, w.is_scaled, l.source, l.line_id, l.resource_key, l.billing_currency, l.cost_kind,
  l.service_name, l.charge_category, l.cost_sign, l.charge_number, l.effective_cost, l.width, coalesce(l.charge_number <= r.last_charge, false) as is_reached
from laid l
join windows w on w.window_number = l.window_number
left join reached r on r.axis_number = l.axis_number
