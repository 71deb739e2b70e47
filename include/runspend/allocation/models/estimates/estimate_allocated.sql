-- one row per run, and bill with cost of its family: the time until which the ledger has its compute cost by rules other than a stated machine.
-- own_until: for the run, on any bill. family_until: for the run, its ancestors and their other descendants, on this bill.
with earliest as (
  -- Hours that are on every bill are not estimated anyway.
  select coalesce(min(billed_until), @window_start) as billed_until from estimate_frontiers
),
ledger as (
  select m.tracking_server, m.run_id, m.family, a.source, max(a.charge_period_end) as allocated_until
  from cost_allocations a
  join estimate_families m on m.tracking_server = a.tracking_server and m.run_id = a.run_id
  cross join earliest e
  where a.billing_period >= @first_period and a.charge_period_end > e.billed_until
    and a.allocated_to = 'run' and a.cost_kind = 'compute' and a.charge_category = 'Usage'
    and a.match_method in ('run_tag', 'job_id', 'pool_time', 'instance_type_time')
    and at_most_a_day(a.charge_period_start, a.charge_period_end)
  group by m.tracking_server, m.run_id, m.family, a.source
),
families as (
  select family, source, max(allocated_until) as family_until
  from ledger
  group by family, source
),
own as (
  select tracking_server, run_id, max(allocated_until) as own_until
  from ledger
  group by tracking_server, run_id
)
select m.tracking_server, m.run_id, m.family, f.source, f.family_until, o.own_until
from estimate_families m
join families f on f.family = m.family
left join own o on o.tracking_server = m.tracking_server and o.run_id = m.run_id
