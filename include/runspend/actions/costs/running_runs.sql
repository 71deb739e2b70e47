-- Runs that were active when their tracking server was last read: their cost up to `known_until`, and the cost of one hour. One row per run
-- and currency. The cost of an hour is that of the run's last estimated hour. If its bill has no estimates, it is the average of the run's
-- billed hours. `running_prices.sql` has the prices of runs that are neither billed nor estimated.
with active as (
  select r.tracking_server, r.workspace, r.run_id, r.run_name, r.experiment_name, r.user_name, r.start_time, r.parent_run_id is not null as is_nested, r.num_nodes
  from runs r
  join sources s on s.source = r.tracking_server and s.kind = 'tracking'
  where r.end_time is null and r.run_status = 'RUNNING' and r.lifecycle_stage = 'active' and r.purged_at is null and r.start_time <= @now
    and coalesce(r.last_sign_at, r.start_time) >= timestamp_sub(s.covered_until, interval 6 hour)
    and (@run = '' or starts_with(r.run_id, @run) or r.run_name = @run) and (@experiment = '' or r.experiment_name = @experiment)
),
-- Every bill is estimated up to the same hour. If a run has no row in that hour, it no longer pays, because a nested run pays.
hours as (
  select
    e.tracking_server, e.workspace, e.run_id, e.billing_currency, e.effective_cost, e.cost_kind, e.estimated_from,
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
machines as (
  select tracking_server, workspace, run_id, count(distinct resource_key) as machines
  from run_resources
  group by tracking_server, workspace, run_id
),
-- The time to which the bills of a run are complete, and the time to which they are estimated. If a bill has later estimates, but none for
-- the run, the run no longer pays.
reached as (
  select d.tracking_server, d.workspace, d.run_id, d.billing_currency, min(s.covered_until) as covered_until, max(f.estimated_until) as estimated_until
  from run_costs_daily d
  join active a on a.tracking_server = d.tracking_server and a.workspace = d.workspace and a.run_id = d.run_id
  left join sources s on s.source = d.source and s.kind = 'bill'
  left join (
    select e.source, max(e.estimated_to) as estimated_until
    from run_estimates e
    where e.cost_kind = 'compute' and e.billing_currency <> '' and e.effective_cost is not null
    group by e.source
  ) f on f.source = d.source
  where d.cost_kind = 'compute'
  group by d.tracking_server, d.workspace, d.run_id, d.billing_currency
),
billed as (
  select
    c.tracking_server, c.workspace, c.run_id, c.billing_currency, c.effective_cost as cost,
    coalesce(r.estimated_until > r.covered_until, false) as is_waiting,
    case
      when r.estimated_until > r.covered_until then r.estimated_until
      else least(coalesce(r.covered_until, @now), timestamp_add(timestamp(c.last_charge_date), interval 1 day))
    end as known_until,
    cast(c.machine_seconds * 1000000 / greatest(coalesce(m.machines, a.num_nodes, 1), 1) as int64) as billed_microseconds
  from run_costs c
  join active a on a.tracking_server = c.tracking_server and a.workspace = c.workspace and a.run_id = c.run_id
  left join reached r
    on r.tracking_server = c.tracking_server and r.workspace = c.workspace and r.run_id = c.run_id and r.billing_currency = c.billing_currency
  left join machines m on m.tracking_server = c.tracking_server and m.workspace = c.workspace and m.run_id = c.run_id
  where c.billing_currency <> ''
),
priced as (
  select tracking_server, workspace, run_id, billing_currency from estimated
  union distinct
  select tracking_server, workspace, run_id, billing_currency from billed
)
select
  a.tracking_server, a.workspace, a.run_id, a.run_name, a.experiment_name, a.user_name, a.start_time, a.is_nested, p.billing_currency,
  case when p.billing_currency is null then null else coalesce(b.cost, bignumeric '0') + coalesce(e.cost, bignumeric '0') end as known_cost,
  least(coalesce(e.known_until, b.known_until), @now) as known_until,
  case
    when e.last_microseconds > 0 then cast(cast(e.last_cost as string) as float64) * 3600000000 / e.last_microseconds
    when b.is_waiting then 0.0
    -- Divide by the longer of two times. A bill may reach past @now: then it covers more time than has passed. A run on a shared machine
    -- has less machine time than has passed.
    when b.cost is not null and (b.billed_microseconds > 0 or least(b.known_until, @now) > a.start_time)
      then cast(cast(b.cost as string) as float64) * 3600000000
        / greatest(coalesce(b.billed_microseconds, 0), timestamp_diff(least(b.known_until, @now), a.start_time, microsecond))
  end as hour_cost
from active a
left join priced p on p.tracking_server = a.tracking_server and p.workspace = a.workspace and p.run_id = a.run_id
left join estimated e
  on e.tracking_server = a.tracking_server and e.workspace = a.workspace and e.run_id = a.run_id and e.billing_currency = p.billing_currency
left join billed b
  on b.tracking_server = a.tracking_server and b.workspace = a.workspace and b.run_id = a.run_id and b.billing_currency = p.billing_currency
order by known_cost desc nulls last, tracking_server, workspace, run_id, billing_currency
