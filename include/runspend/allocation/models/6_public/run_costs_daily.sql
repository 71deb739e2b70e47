-- one row per run, charge date, cost kind, source and billing period
with charges as (
  select
    tracking_server, workspace, run_id, charge_date, cost_kind, source, billing_currency,
    sum(list_cost) as list_cost, sum(contracted_cost) as contracted_cost, sum(effective_cost) as effective_cost, sum(billed_cost) as billed_cost,
    sum(unused_cost) as unused_cost, sum(overhead_cost) as overhead_cost,
    max(case confidence when 'low' then 4 when 'medium' then 3 when 'high' then 2 when 'exact' then 1 end) as worst,
    countif(cost_status = 'provisional') as open_charges
  from cost_allocations
  where billing_period = @period and allocated_to = 'run'
  group by tracking_server, workspace, run_id, charge_date, cost_kind, source, billing_currency
),
numbered_charges as (
  -- A day's machine time is on only one row: that of the run's compute cost, otherwise that of its first cost kind.
  select
    tracking_server, workspace, run_id, charge_date, cost_kind, source, billing_currency,
    list_cost, contracted_cost, effective_cost, billed_cost, unused_cost, overhead_cost, worst, open_charges,
    row_number() over (
      partition by tracking_server, workspace, run_id, charge_date, source
      order by case cost_kind when 'compute' then 0 else 1 end, cost_kind, billing_currency) as charge_number
  from charges
),
times as (
  -- A run on several machines may have a row for each shard of machines.
  select
    tracking_server, workspace, run_id, charge_date, source,
    sum(nanoseconds) / 1e9 as machine_seconds, sum(gpu_nanoseconds) / 1e9 as gpu_seconds
  from run_times
  group by tracking_server, workspace, run_id, charge_date, source
)
select
  c.tracking_server, c.workspace, c.run_id, c.charge_date, c.cost_kind, c.source, @period as billing_period, c.billing_currency,
  c.list_cost, c.contracted_cost, c.effective_cost, c.billed_cost, c.unused_cost, c.overhead_cost,
  t.machine_seconds, t.gpu_seconds,
  case c.worst when 4 then 'low' when 3 then 'medium' when 2 then 'high' when 1 then 'exact' end as confidence,
  case when c.open_charges > 0 then 'provisional' else 'final' end as cost_status
from numbered_charges c
left join times t
  on t.tracking_server = c.tracking_server and t.workspace = c.workspace and t.run_id = c.run_id and t.charge_date = c.charge_date and t.source = c.source
  and c.charge_number = 1
