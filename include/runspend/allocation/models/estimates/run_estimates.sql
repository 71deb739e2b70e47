-- one row per run, machine and hour that is not billed yet. Also one row for token costs per run, user, model and day,
-- and one row for time without an estimate per run and day
with hours as (
  -- The cost of the whole hour of the machine (or of all machines with one name on the bill), and the run's share as a range between 0 and 1.
  -- The ledger splits a bill line in the same way.
  select
    t.tracking_server, t.workspace, t.run_id, t.resource_key, t.charge_period_start as estimated_from, t.charge_period_end as estimated_to,
    t.nanoseconds, t.nanoseconds * m.machine_gpus as gpu_nanoseconds, t.ratio_from, t.ratio_to, t.is_last,
    timestamp_diff(t.charge_period_end, t.charge_period_start, microsecond) / 3600000000.0 * m.machines as parts_of_hour,
    m.source, m.account, m.resource_id, m.instance_type, m.region_id, m.billing_currency, m.price_from, m.reason,
    case
      when t.run_end_rule in ('silent', 'started') or (t.run_end_rule in ('future', 'resumed') and t.is_ambiguous) then 'low'
      when t.run_end_rule in ('future', 'resumed') or t.is_ambiguous then 'medium'
      else 'high'
    end as confidence,
    m.list_cost, m.contracted_cost, m.effective_cost, m.billed_cost
  from slot_targets t
  join estimate_machines m on m.resource_key = t.resource_key
  where t.allocated_to = 'run'
),
hour_floats as (
  select
    tracking_server, workspace, run_id, resource_key, estimated_from, estimated_to, nanoseconds, gpu_nanoseconds, ratio_from, ratio_to, is_last,
    parts_of_hour, source, account, resource_id, instance_type, region_id, billing_currency, price_from, reason, confidence, list_cost, contracted_cost, effective_cost, billed_cost,
    cast(cast(list_cost as string) as float64) * parts_of_hour as list_float,
    cast(cast(contracted_cost as string) as float64) * parts_of_hour as contracted_float,
    cast(cast(effective_cost as string) as float64) * parts_of_hour as effective_float,
    cast(cast(billed_cost as string) as float64) * parts_of_hour as billed_float
  from hours
),
machine_hours as (
  select
    tracking_server, workspace, run_id, resource_key, estimated_from, estimated_to, nanoseconds, gpu_nanoseconds, ratio_from, ratio_to, is_last,
    source, account, resource_id, instance_type, region_id, billing_currency, price_from, reason, confidence,
    case when parts_of_hour = 1 then list_cost else price_money(list_float) end as list_cost,
    case when parts_of_hour = 1 then contracted_cost else price_money(contracted_float) end as contracted_cost,
    case when parts_of_hour = 1 then effective_cost else price_money(effective_float) end as effective_cost,
    case when parts_of_hour = 1 then billed_cost else price_money(billed_float) end as billed_cost
  from hour_floats
),
share_floats as (
  select
    tracking_server, workspace, run_id, resource_key, estimated_from, estimated_to, nanoseconds, gpu_nanoseconds, ratio_from, is_last,
    source, account, resource_id, instance_type, region_id, billing_currency, price_from, reason, confidence, list_cost, contracted_cost, effective_cost, billed_cost,
    case when ratio_from > 0 then cast(cast(list_cost as string) as float64) * ratio_from end as list_before, case when not is_last then cast(cast(list_cost as string) as float64) * ratio_to end as list_upto,
    case when ratio_from > 0 then cast(cast(contracted_cost as string) as float64) * ratio_from end as contracted_before, case when not is_last then cast(cast(contracted_cost as string) as float64) * ratio_to end as contracted_upto,
    case when ratio_from > 0 then cast(cast(effective_cost as string) as float64) * ratio_from end as effective_before, case when not is_last then cast(cast(effective_cost as string) as float64) * ratio_to end as effective_upto,
    case when ratio_from > 0 then cast(cast(billed_cost as string) as float64) * ratio_from end as billed_before, case when not is_last then cast(cast(billed_cost as string) as float64) * ratio_to end as billed_upto
  from machine_hours
),
on_machines as (
  select
    tracking_server, workspace, run_id, resource_key, estimated_from, estimated_to, nanoseconds, gpu_nanoseconds,
    source, account, resource_id, instance_type, region_id, billing_currency, price_from, reason, confidence,
    case when is_last then list_cost else exact_money(list_upto) end - case when ratio_from = 0 then bignumeric '0' else exact_money(list_before) end as list_cost,
    case when is_last then contracted_cost else exact_money(contracted_upto) end - case when ratio_from = 0 then bignumeric '0' else exact_money(contracted_before) end as contracted_cost,
    case when is_last then effective_cost else exact_money(effective_upto) end - case when ratio_from = 0 then bignumeric '0' else exact_money(effective_before) end as effective_cost,
    case when is_last then billed_cost else exact_money(billed_upto) end - case when ratio_from = 0 then bignumeric '0' else exact_money(billed_before) end as billed_cost
  from share_floats
),
asking as (
  -- The time in which a run asks for machines, by hour. No descendant covers this time.
  select
    c.tracking_server, c.workspace, c.run_id, c.claim_run_id, c.num_nodes, c.priced_as as machine,
    start_of_hour(hour_number) as hour_start,
    greatest(i.interval_start, start_of_hour(hour_number)) as asked_from,
    least(i.interval_end, start_of_hour(hour_number + 1)) as asked_to
  from run_intervals i
  join estimate_claims c on c.tracking_server = i.tracking_server and c.workspace = i.workspace and c.run_id = i.run_id
  cross join unnest(hours_between(i.interval_start, i.interval_end)) as hour_number
  where starts_with(i.resource_key, 'family ') and c.priced_as is not null
),
claim_times as (
  select
    tracking_server, claim_run_id, asked_from as used_from, asked_to as used_to, num_nodes, 0 as machines,
    case when num_nodes > 0 then 1 else 0 end as members, case when num_nodes > 0 then 0 else 1 end as holders
  from asking
  union all
  -- Without the machines that a run states, which have separate rows.
  select a.tracking_server, a.claim_run_id, greatest(a.asked_from, i.interval_start), least(a.asked_to, i.interval_end), 0, 1, 0, 0
  from asking a
  join run_intervals i on i.tracking_server = a.tracking_server and i.workspace = a.workspace and i.run_id = a.run_id
    and i.interval_start < a.asked_to and i.interval_end > a.asked_from
  where a.num_nodes > 0 and not starts_with(i.resource_key, 'family ')
),
changes as (
  select tracking_server, claim_run_id, used_from as mark, num_nodes, machines, members, holders from claim_times
  union all
  select tracking_server, claim_run_id, used_to, 0, -machines, -members, -holders from claim_times
),
marks as (
  select
    tracking_server, claim_run_id, mark, max(num_nodes) as num_nodes, sum(machines) as machines, sum(members) as members, sum(holders) as holders
  from changes
  group by tracking_server, claim_run_id, mark
),
slices as (
  select
    tracking_server, claim_run_id, mark, timestamp_diff(lead(mark) over w, mark, microsecond) as microseconds,
    max(num_nodes) over (partition by tracking_server, claim_run_id) as num_nodes,
    cast(sum(machines) over w as int64) as machines, cast(sum(members) over w as int64) as members, cast(sum(holders) over w as int64) as holders
  from marks
  window w as (partition by tracking_server, claim_run_id order by mark)
),
asked_nodes as (
  -- What all members of a claim ask for together (see pool_families).
  select
    tracking_server, claim_run_id, mark, members, microseconds,
    case when members > 0 then div(greatest(num_nodes * members - machines, 0) + members + holders - 1, members + holders) else 0 end as nodes
  from slices
),
clock as (
  -- The machine time of each member until the mark.
  select
    tracking_server, claim_run_id, mark,
    cast(coalesce(sum(case when members > 0 then div(nodes * microseconds, members) else 0 end) over (
      partition by tracking_server, claim_run_id order by mark rows between unbounded preceding and 1 preceding), 0) as int64) as upto
  from asked_nodes
),
claimed as (
  select a.tracking_server, a.workspace, a.run_id, a.machine, a.hour_start, cast(sum(t.upto - f.upto) as int64) as microseconds
  from asking a
  join clock f on f.tracking_server = a.tracking_server and f.claim_run_id = a.claim_run_id and f.mark = a.asked_from
  join clock t on t.tracking_server = a.tracking_server and t.claim_run_id = a.claim_run_id and t.mark = a.asked_to
  where a.num_nodes > 0
  group by a.tracking_server, a.workspace, a.run_id, a.machine, a.hour_start
  having microseconds > 0
),
allocated as (
  select tracking_server, run_id, max(own_until) as own_until, max(family_until) as family_until
  from estimate_allocated
  group by tracking_server, run_id
),
claim_floats as (
  select
    c.tracking_server, c.workspace, c.run_id, greatest(c.hour_start, m.billed_until, coalesce(a.own_until, m.billed_until)) as estimated_from,
    least(timestamp_add(c.hour_start, interval 1 hour), @now) as estimated_to, c.microseconds * 1000 as nanoseconds,
    m.source, m.account, m.instance_type, m.region_id, m.billing_currency, m.price_from, m.reason,
    cast(cast(m.list_cost as string) as float64) * (c.microseconds / 3600000000.0) as list_float,
    cast(cast(m.contracted_cost as string) as float64) * (c.microseconds / 3600000000.0) as contracted_float,
    cast(cast(m.effective_cost as string) as float64) * (c.microseconds / 3600000000.0) as effective_float,
    cast(cast(m.billed_cost as string) as float64) * (c.microseconds / 3600000000.0) as billed_float
  from claimed c
  join estimate_machines m on m.resource_key = c.machine
  left join allocated a on a.tracking_server = c.tracking_server and a.run_id = c.run_id
),
on_types as (
  select
    tracking_server, workspace, run_id, '' as resource_key, estimated_from, estimated_to, nanoseconds, cast(null as int64) as gpu_nanoseconds,
    source, account, cast(null as string) as resource_id, instance_type, region_id, billing_currency, price_from, reason, 'low' as confidence,
    price_money(list_float) as list_cost,
    price_money(contracted_float) as contracted_cost,
    price_money(effective_float) as effective_cost,
    price_money(billed_float) as billed_cost
  from claim_floats
),
everywhere as (
  select coalesce(min(billed_until), @month_start) as billed_until
  from (select source, max(billed_until) as billed_until from estimate_frontiers where starts_with(part, 'account ') group by source) as reaches
),
named_lines as (
  select concat('pool ', pool_key) as place, charge_period_end
  from billing_lines
  where billing_period >= @first_period and pool_key is not null and at_most_a_day(charge_period_start, charge_period_end)
  union all
  select concat('job ', job_key) as place, charge_period_end
  from billing_lines
  where billing_period >= @first_period and job_key is not null and at_most_a_day(charge_period_start, charge_period_end)
),
reached_names as (
  select place, charge_period_end from named_lines
  union all
  -- The run states its job by a different name than the bill does.
  select concat('job ', n.stated_key), l.charge_period_end
  from matched_names n
  join named_lines l on l.place = concat('job ', n.billed_key)
  where n.name_kind = 'job' and n.stated_key <> n.billed_key
),
reaches as (
  -- Runs of a pool or a job are billed until the end of its lines, independent of lines of machines that other runs state.
  select place, max(charge_period_end) as billed_until
  from reached_names
  group by place
),
nameless as (
  select
    c.tracking_server, c.workspace, c.run_id, c.ended_at,
    greatest(c.start_time, coalesce(j.billed_until, p.billed_until, e.billed_until), coalesce(a.family_until, c.start_time)) as started_at
  from estimate_claims c
  join window_runs w on w.tracking_server = c.tracking_server and w.workspace = c.workspace and w.run_id = c.run_id
  cross join everywhere e
  left join reaches j on j.place = concat('job ', w.job_key)
  left join reaches p on p.place = concat('pool ', w.pool_key)
  left join allocated a on a.tracking_server = c.tracking_server and a.run_id = c.run_id
  where c.priced_as is null
),
unknown as (
  -- Neither a machine nor a type is stated, so only the time is known.
  select tracking_server, workspace, run_id, started_at, least(ended_at, @now) as ended_at
  from nameless
  where least(ended_at, @now) > started_at
),
without_figure as (
  select
    u.tracking_server, u.workspace, u.run_id, '' as resource_key,
    greatest(u.started_at, timestamp_trunc(timestamp(day), day)) as estimated_from,
    least(u.ended_at, timestamp_add(timestamp_trunc(timestamp(day), day), interval 24 hour)) as estimated_to,
    cast(null as int64) as nanoseconds, cast(null as int64) as gpu_nanoseconds,
    'rates' as source, cast(null as string) as account, cast(null as string) as resource_id, cast(null as string) as instance_type, cast(null as string) as region_id,
    cast(null as string) as billing_currency, cast(null as string) as price_from, 'no_machine' as reason, cast(null as string) as confidence,
    cast(null as bignumeric) as list_cost, cast(null as bignumeric) as contracted_cost, cast(null as bignumeric) as effective_cost, cast(null as bignumeric) as billed_cost
  from unknown u
  cross join unnest(generate_date_array(date(u.started_at), date(timestamp_sub(u.ended_at, interval 1 microsecond)))) as day
),
of_runs as (
  select tracking_server, workspace, run_id, resource_key, estimated_from, estimated_to, nanoseconds, gpu_nanoseconds, source, account, resource_id, instance_type, region_id, billing_currency, price_from, reason, confidence, list_cost, contracted_cost, effective_cost, billed_cost
  from on_machines
  union all
  select tracking_server, workspace, run_id, resource_key, estimated_from, estimated_to, nanoseconds, gpu_nanoseconds, source, account, resource_id, instance_type, region_id, billing_currency, price_from, reason, confidence, list_cost, contracted_cost, effective_cost, billed_cost
  from on_types
  union all
  select tracking_server, workspace, run_id, resource_key, estimated_from, estimated_to, nanoseconds, gpu_nanoseconds, source, account, resource_id, instance_type, region_id, billing_currency, price_from, reason, confidence, list_cost, contracted_cost, effective_cost, billed_cost
  from without_figure
),
billed_tokens as (
  -- Days and clouds whose bill was split by token cost or by caller. Bills of AWS name the callers.
  select distinct charge_date, case when match_method = 'llm_identity' then 'aws' else coalesce(nullif(substr(pool_key, 5), ''), 'other') end as llm_cloud
  from cost_allocations
  where match_method in ('llm_identity', 'llm_cost')
),
priced_tokens as (
  select
    tracking_server, workspace, run_id, charge_date, currency, list_cost, coalesce(price_source, 'mlflow') as price_source, experiment_id, user_name, model,
    lower(coalesce(provider, '')) as provider_name, lower(coalesce(model, '')) as model_name
  from trace_costs
  where charge_date <= date(@now)
),
token_costs as (
  select
    tracking_server, workspace, run_id, charge_date, currency, list_cost, price_source, experiment_id, user_name, model,
    trace_cloud(provider_name, model_name) as trace_cloud
  from priced_tokens
),
open_tokens as (
  select
    c.tracking_server, c.workspace, c.run_id, c.charge_date, c.currency, c.experiment_id, c.user_name, c.model, sum(c.list_cost) as list_cost,
    coalesce(max(case when c.price_source <> 'mlflow' then c.price_source end), 'mlflow') as price_source
  from token_costs c
  left join billed_tokens b on b.charge_date = c.charge_date and is_on_cloud(c.trace_cloud, b.llm_cloud)
  where b.charge_date is null
  group by c.tracking_server, c.workspace, c.run_id, c.charge_date, c.currency, c.experiment_id, c.user_name, c.model
)
select
  o.tracking_server, o.workspace, o.run_id, date(o.estimated_from) as charge_date, 'compute' as cost_kind, o.source,
  cast(date_trunc(date(o.estimated_from), month) as date) as billing_period,
  case when o.effective_cost is null then '' else o.billing_currency end as billing_currency,
  o.list_cost, o.contracted_cost, o.effective_cost, o.billed_cost, cast(null as bignumeric) as unused_cost, cast(null as bignumeric) as overhead_cost,
  o.nanoseconds / 1e9 as machine_seconds, o.gpu_nanoseconds / 1e9 as gpu_seconds,
  case when o.effective_cost is not null then o.confidence end as confidence, 'estimated' as cost_status,
  o.resource_key, o.estimated_from, o.estimated_to, o.account as sub_account_id, o.instance_type, o.region_id, o.resource_id, o.price_from, o.reason,
  coalesce(r.experiment_id, '') as experiment_id, coalesce(r.user_name, '') as user_name, '' as model
from of_runs o
left join runs r on r.tracking_server = o.tracking_server and r.workspace = o.workspace and r.run_id = o.run_id
union all
select
  c.tracking_server, c.workspace, c.run_id, c.charge_date, 'llm', 'mlflow', cast(date_trunc(c.charge_date, month) as date), c.currency,
  c.list_cost, c.list_cost, c.list_cost, c.list_cost, cast(null as bignumeric), cast(null as bignumeric), cast(null as float64), cast(null as float64),
  case when c.price_source = 'mlflow' then 'medium' else 'low' end, 'estimated', '', timestamp_trunc(timestamp(c.charge_date), day),
  least(timestamp_add(timestamp_trunc(timestamp(c.charge_date), day), interval 24 hour), @now),
  cast(null as string), cast(null as string), cast(null as string), cast(null as string), c.price_source, cast(null as string), c.experiment_id, c.user_name, c.model
from open_tokens c
