-- Runs that were active when their tracking server was last read: what they cost up to `known_until`, and an hour of theirs. One row per run and currency.
-- An hour costs what the last estimated hour of the run costs; without an estimate, what its billed hours cost on average.
with active as (
  select r.tracking_server, r.workspace, r.run_id, r.run_name, r.experiment_name, r.user_name, r.start_time
  from runs r
  join sources s on s.source = r.tracking_server and s.kind = 'tracking'
  where r.end_time is null and r.run_status = 'RUNNING' and r.lifecycle_stage = 'active' and r.purged_at is null and r.start_time <= @now
    and coalesce(r.last_sign_at, r.start_time) >= timestamp_sub(s.covered_until, interval 6 hour)
    and (@run = '' or starts_with(r.run_id, @run) or r.run_name = @run) and (@experiment = '' or r.experiment_name = @experiment)
),
-- Every bill is estimated up to the same hour. A run without a row in that hour no longer pays: a nested run does.
hours as (
  select
    e.tracking_server, e.workspace, e.run_id, e.billing_currency, e.effective_cost, e.cost_kind, e.estimated_from, e.estimated_to,
    max(case when e.cost_kind = 'compute' then e.estimated_from end) over (partition by e.tracking_server) as last_from,
    max(case when e.cost_kind = 'compute' then e.estimated_to end) over (partition by e.tracking_server) as last_to
  from run_estimates e
  where e.billing_currency <> '' and e.effective_cost is not null
),
estimated as (
  select
    h.tracking_server, h.workspace, h.run_id, h.billing_currency, sum(h.effective_cost) as cost, max(h.last_to) as known_until,
    sum(case when h.cost_kind = 'compute' and h.estimated_from = h.last_from then h.effective_cost else bignumeric '0' end) as last_cost,
    max(timestamp_diff(h.last_to, h.last_from, microsecond)) as last_microseconds
  from hours h
  group by h.tracking_server, h.workspace, h.run_id, h.billing_currency
),
billed as (
  select
    c.tracking_server, c.workspace, c.run_id, c.billing_currency, c.effective_cost as cost,
    timestamp_add(timestamp(c.last_charge_date), interval 1 day) as known_until
  from run_costs c
  where c.billing_currency <> ''
),
priced as (
  select tracking_server, workspace, run_id, billing_currency from estimated
  union distinct
  select tracking_server, workspace, run_id, billing_currency from billed
)
select
  a.tracking_server, a.workspace, a.run_id, a.run_name, a.experiment_name, a.user_name, a.start_time, p.billing_currency,
  case when p.billing_currency is null then null else coalesce(b.cost, bignumeric '0') + coalesce(e.cost, bignumeric '0') end as known_cost,
  least(coalesce(e.known_until, b.known_until), @now) as known_until,
  case
    when e.last_microseconds > 0 then cast(cast(e.last_cost as string) as float64) * 3600000000 / e.last_microseconds
    when b.cost is not null and least(b.known_until, @now) > a.start_time
      then cast(cast(b.cost as string) as float64) * 3600000000 / timestamp_diff(least(b.known_until, @now), a.start_time, microsecond)
  end as hour_cost
from active a
left join priced p on p.tracking_server = a.tracking_server and p.workspace = a.workspace and p.run_id = a.run_id
left join estimated e
  on e.tracking_server = a.tracking_server and e.workspace = a.workspace and e.run_id = a.run_id and e.billing_currency = p.billing_currency
left join billed b
  on b.tracking_server = a.tracking_server and b.workspace = a.workspace and b.run_id = a.run_id and b.billing_currency = p.billing_currency
order by known_cost desc nulls last, tracking_server, workspace, run_id, billing_currency
