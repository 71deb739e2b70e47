-- Active runs of @runs and the machines that they state: the last billed price of each machine, and the share of it that the run pays now.
-- One row per run, machine and currency. A run without a machine has one row without a price. Runs on the same machine share its price
-- like in the ledger: by GPUs if all of them state their GPUs, otherwise equally. A run pays nothing while a nested run is active.
with active as (
  select
    r.tracking_server, r.workspace, r.run_id, r.parent_run_id, r.start_time, r.instance_type, r.num_nodes, r.region_id, r.purchase_option, r.gpu_count
  from runs r
  join sources s on s.source = r.tracking_server and s.kind = 'tracking'
  where r.end_time is null and r.run_status = 'RUNNING' and r.lifecycle_stage = 'active' and r.purged_at is null and r.start_time <= @now
    and coalesce(r.last_sign_at, r.start_time) >= timestamp_sub(s.covered_until, interval 6 hour)
),
waiting as (
  select distinct tracking_server, workspace, parent_run_id as run_id
  from active
  where parent_run_id is not null
),
stated as (
  select distinct a.tracking_server, a.workspace, a.run_id, a.gpu_count, m.resource_key, w.run_id is not null as is_waiting
  from active a
  join run_resources m on m.tracking_server = a.tracking_server and m.workspace = a.workspace and m.run_id = a.run_id
  left join waiting w on w.tracking_server = a.tracking_server and w.workspace = a.workspace and w.run_id = a.run_id
  where coalesce(m.used_from, @now) <= @now and coalesce(m.used_to, @now) >= @now and m.resource_key is not null
),
shares as (
  select
    tracking_server, workspace, run_id, resource_key,
    case
      when is_waiting then 1.0
      when min(coalesce(gpu_count, 0)) over (partition by resource_key, is_waiting) > 0
        then gpu_count / sum(gpu_count) over (partition by resource_key, is_waiting)
      else 1.0 / count(*) over (partition by resource_key, is_waiting)
    end as share
  from stated
),
-- Nested runs pay for the time that they cover. The parent run pays for the rest of its time.
nested as (
  select
    c.tracking_server, c.workspace, c.parent_run_id as run_id, c.start_time, least(coalesce(c.end_time, @now), @now) as end_time,
    max(least(coalesce(c.end_time, @now), @now)) over (
      partition by c.tracking_server, c.workspace, c.parent_run_id order by c.start_time, c.run_id rows between unbounded preceding and 1 preceding
    ) as covered_until
  from runs c
  where c.parent_run_id in unnest(@runs) and c.purged_at is null and c.start_time <= @now
),
covered as (
  select
    tracking_server, workspace, run_id,
    sum(greatest(timestamp_diff(end_time, greatest(start_time, coalesce(covered_until, start_time)), microsecond), 0)) as microseconds
  from nested
  group by tracking_server, workspace, run_id
),
skus as (
  select
    l.source, l.resource_key, l.charge_period_start, l.charge_period_end, l.billing_currency, sum(l.effective_cost) as cost,
    nullif(greatest(sum(l.billed_nanoseconds), 0), 0) as nanoseconds
  from billing_lines l
  join (select distinct resource_key from shares) m on m.resource_key = l.resource_key
  where l.billing_period >= date_trunc(date(@since), month) and l.charge_period_start >= @since
    and l.charge_category = 'Usage' and l.charge_class is null and not is_unused(l.commitment_discount_status, l.capacity_reservation_status)
    and strpos(lower(coalesce(l.service_name, '')), 'support') = 0 and l.charge_period_end > l.charge_period_start
    and at_most_a_day(l.charge_period_start, l.charge_period_end)
  group by l.source, l.resource_key, l.charge_period_start, l.charge_period_end, l.billing_currency, coalesce(l.sku_id, '')
),
windows as (
  select
    source, resource_key, charge_period_start, charge_period_end, billing_currency, sum(cost) as cost, max(nanoseconds) / 1000 as billed_microseconds,
    timestamp_diff(charge_period_end, charge_period_start, microsecond) as window_microseconds
  from skus
  group by source, resource_key, charge_period_start, charge_period_end, billing_currency
),
last_windows as (
  select
    resource_key, billing_currency,
    cast(cast(cost as string) as float64) * 3600000000 / machine_time(billed_microseconds, window_microseconds) as machine_cost,
    case when billed_microseconds > window_microseconds * 1.05 then billed_microseconds / window_microseconds else 1.0 end as machines
  from windows
  where cost > 0
  qualify row_number() over (partition by resource_key order by charge_period_end desc, charge_period_start desc, source, billing_currency) = 1
)
select
  a.tracking_server, a.workspace, a.run_id, a.instance_type, coalesce(a.num_nodes, 1) as num_nodes, a.region_id, a.purchase_option, w.run_id is not null as is_waiting,
  (timestamp_diff(@now, a.start_time, microsecond) - coalesce(c.microseconds, 0)) / 3600000000 as own_hours,
  s.resource_key, s.share, p.billing_currency,
  p.machine_cost * case
    -- In a cluster or scale set, a run uses only its own nodes. Other resources may bill several machines on one line, such as a job:
    -- there, the run uses all machines.
    when is_machine_set(s.resource_key) then least(coalesce(a.num_nodes, 1) / s.share, p.machines)
    else p.machines
  end as hour_cost
from active a
left join waiting w on w.tracking_server = a.tracking_server and w.workspace = a.workspace and w.run_id = a.run_id
left join covered c on c.tracking_server = a.tracking_server and c.workspace = a.workspace and c.run_id = a.run_id
left join shares s on s.tracking_server = a.tracking_server and s.workspace = a.workspace and s.run_id = a.run_id
left join last_windows p on p.resource_key = s.resource_key
where a.run_id in unnest(@runs)
order by a.tracking_server, a.workspace, a.run_id, s.resource_key
