-- one row per bill, charge date, currency and pipeline run that found billed hours which had been estimated
with owners as (
  -- The bill on which the machine is now.
  select resource_key, source, account
  from estimate_seen
  where used_until is not null
  qualify row_number() over (partition by resource_key order by used_until desc, source, account, billing_currency, resource_id) = 1
),
before as (
  select
    e.tracking_server, e.workspace, e.run_id, e.resource_key, e.charge_date, e.billing_currency, e.estimated_from, e.estimated_to, e.effective_cost,
    coalesce(o.source, e.source) as source,
    case
      when o.source is not null then concat('account ', o.account)
      when e.sub_account_id is not null then concat('account ', e.sub_account_id)
      else concat('type ', e.instance_type)
    end as part
  from run_estimates e
  left join owners o on o.resource_key = e.resource_key
  where e.cost_kind = 'compute' and e.effective_cost is not null
),
billed_estimates as (
  select b.source, b.tracking_server, b.workspace, b.run_id, b.resource_key, b.charge_date, b.billing_currency, b.estimated_from, b.estimated_to, b.effective_cost
  from before b
  left join estimate_frontiers f on f.source = b.source and f.part = b.part and f.billed_until >= b.estimated_to
  left join (select distinct tracking_server, run_id, own_until from estimate_allocated) a
    on a.tracking_server = b.tracking_server and a.run_id = b.run_id and a.own_until >= b.estimated_to and b.resource_key = ''
  join (select distinct source, billing_currency from estimate_seen) c on c.source = b.source and c.billing_currency = b.billing_currency
  where f.source is not null or a.run_id is not null
),
billed_runs as (
  select distinct tracking_server, workspace, run_id from billed_estimates
),
ledger as (
  select
    a.source, a.tracking_server, a.workspace, a.run_id, w.resource_key, a.charge_date, a.billing_currency, a.charge_period_start, a.charge_period_end,
    sum(a.effective_cost) as effective_cost
  from cost_allocations a
  join (select distinct source, resource_id, resource_key from estimate_seen) w on w.source = a.source and w.resource_id = a.resource_id
  join billed_runs r on r.tracking_server = a.tracking_server and r.workspace = a.workspace and r.run_id = a.run_id
  where a.billing_period >= @first_period and a.allocated_to = 'run'
    and at_most_a_day(a.charge_period_start, a.charge_period_end)
  group by a.source, a.tracking_server, a.workspace, a.run_id, w.resource_key, a.charge_date, a.billing_currency, a.charge_period_start, a.charge_period_end
  union all
  select
    a.source, a.tracking_server, a.workspace, a.run_id, '', a.charge_date, a.billing_currency, a.charge_period_start, a.charge_period_end, sum(a.effective_cost)
  from cost_allocations a
  join billed_runs r on r.tracking_server = a.tracking_server and r.workspace = a.workspace and r.run_id = a.run_id
  where a.billing_period >= @first_period and a.allocated_to = 'run' and a.match_method in ('pool_time', 'instance_type_time')
    and at_most_a_day(a.charge_period_start, a.charge_period_end)
  group by a.source, a.tracking_server, a.workspace, a.run_id, a.charge_date, a.billing_currency, a.charge_period_start, a.charge_period_end
),
charged as (
  -- The end of the run, as used for the line that charges it.
  select
    l.source, l.tracking_server, l.workspace, l.run_id, l.resource_key, l.charge_date, l.billing_currency, l.charge_period_start, l.charge_period_end, l.effective_cost,
    r.start_time, coalesce(run_end(r.end_time, r.last_sign_at, r.start_time, l.charge_period_end), l.charge_period_end) as end_time
  from ledger l
  left join runs r on r.tracking_server = l.tracking_server and r.workspace = l.workspace and r.run_id = l.run_id
),
met as (
  -- The estimated part of the run's time in the line. It is all of it, unless the line is longer than the estimated hours.
  select
    l.source, l.tracking_server, l.workspace, l.run_id, l.resource_key, l.charge_date, l.billing_currency, l.charge_period_start, l.charge_period_end,
    max(l.effective_cost) as effective_cost,
    max(timestamp_diff(least(l.end_time, l.charge_period_end), greatest(coalesce(l.start_time, l.charge_period_start), l.charge_period_start), microsecond)) as line_time,
    sum(greatest(0, timestamp_diff(
      least(l.end_time, l.charge_period_end, s.estimated_to),
      greatest(coalesce(l.start_time, l.charge_period_start), l.charge_period_start, s.estimated_from), microsecond))) as estimated_time
  from charged l
  join billed_estimates s
    on s.source = l.source and s.tracking_server = l.tracking_server and s.workspace = l.workspace and s.run_id = l.run_id
    and s.resource_key = l.resource_key and s.billing_currency = l.billing_currency
    and s.estimated_from < l.charge_period_end and s.estimated_to > l.charge_period_start
  group by
    l.source, l.tracking_server, l.workspace, l.run_id, l.resource_key, l.charge_date, l.billing_currency, l.charge_period_start, l.charge_period_end
),
met_floats as (
  select
    source, charge_date, billing_currency, effective_cost, line_time, estimated_time,
    case when line_time > 0 then cast(cast(effective_cost as string) as float64) * (estimated_time / line_time) end as part
  from met
),
actuals as (
  select
    source, charge_date, billing_currency,
    sum(case
      when line_time <= 0 or estimated_time >= line_time then effective_cost
      else price_money(part)
    end) as actual_cost
  from met_floats
  group by source, charge_date, billing_currency
),
estimates as (
  select
    source, charge_date, billing_currency, min(estimated_from) as estimated_from, max(estimated_to) as estimated_to,
    count(distinct concat(tracking_server, '/', workspace, '/', run_id)) as runs, sum(effective_cost) as estimated_cost
  from billed_estimates
  group by source, charge_date, billing_currency
),
found as (
  select
    e.source, e.charge_date, e.billing_currency, @now as judged_at, e.estimated_from, e.estimated_to, e.runs, e.estimated_cost,
    coalesce(a.actual_cost, bignumeric '0') as actual_cost
  from estimates e
  left join actuals a on a.source = e.source and a.charge_date = e.charge_date and a.billing_currency = e.billing_currency
)
select
  source, charge_date, billing_currency, judged_at, estimated_from, estimated_to, runs, estimated_cost, actual_cost,
  estimated_cost - actual_cost as difference_cost
from found
union all
select
  o.source, o.charge_date, o.billing_currency, o.judged_at, o.estimated_from, o.estimated_to, o.runs, o.estimated_cost, o.actual_cost, o.difference_cost
from estimate_errors o
left join found f
  on f.source = o.source and f.charge_date = o.charge_date and f.billing_currency = o.billing_currency and f.judged_at = o.judged_at
  and f.estimated_from = o.estimated_from
where f.source is null
