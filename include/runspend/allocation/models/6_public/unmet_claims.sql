-- one row per run of the month that states a job, machine, pool or instance type but gets no machine cost by any rule, or that states an IAM
-- principal but gets no cost of language models by it. Statements about machines come first.
with resources as (
  select
    source, resource_key, job_key, pool_key, lower(instance_type) as instance_type, max(charge_period_end) as last_end,
    max(case when service_category in ('Compute', 'AI and Machine Learning') and (billed_nanoseconds > 0 or instance_type is not null) then charge_period_end end) as machine_end,
    countif(coalesce(scope, '') <> 'exclude') = 0 as is_excluded
  from billing_lines
  where billing_period = @period and charge_category = 'Usage' and charge_period_end > charge_period_start
    and at_most_a_day(charge_period_start, charge_period_end)
    and (resource_key is not null or job_key is not null or pool_key is not null or instance_type is not null)
  group by source, resource_key, job_key, pool_key, lower(instance_type)
),
frontiers as (
  -- Buckets and disks may be billed until the end of a day on which machines are billed only in part.
  select source, coalesce(max(machine_end), max(last_end)) as billed_until
  from resources
  group by source
),
month as (
  select timestamp(@period) as starts_at, timestamp(date_add(@period, interval 1 month)) as ends_at, max(billed_until) as billed_until
  from frontiers
),
on_bill as (
  select r.resource_key, max(f.billed_until) as billed_until, logical_and(r.is_excluded) as is_excluded
  from resources r
  join frontiers f on f.source = r.source
  where r.resource_key is not null
  group by r.resource_key
),
bills_with as (
  -- The time until which the bills with the job, the pool or the instance type are complete.
  select n.match_method, n.name, max(f.billed_until) as billed_until
  from (
    select 'job_id' as match_method, job_key as name, source from resources where job_key is not null
    union distinct
    select 'pool_time', pool_key, source from resources where pool_key is not null
    union distinct
    select 'instance_type_time', instance_type, source from resources where instance_type is not null
  ) n
  join frontiers f on f.source = n.source
  group by n.match_method, n.name
),
excluded_accounts as (
  -- Accounts of which `scope` excludes all lines. Such lines are summed when they are loaded, so the warehouse does not know their machines.
  select regexp_replace(lower(sub_account_id), r'^/?(subscriptions|projects)/', '') as account
  from billing_lines
  where billing_period = @period and sub_account_id is not null
  group by regexp_replace(lower(sub_account_id), r'^/?(subscriptions|projects)/', '')
  having countif(coalesce(scope, '') <> 'exclude') = 0
),
machines as (
  select tracking_server, workspace, run_id, min(resource_id) as resource_id, min(resource_key) as resource_key
  from stated_machines
  group by tracking_server, workspace, run_id
),
active as (
  -- A run without a sign of activity has as many hours as elsewhere in the ledger.
  select
    r.*, n.billed_until as newest_billed_until, greatest(r.start_time, n.starts_at) as claimed_from,
    least(
      coalesce(r.end_time, case when r.last_sign_at is null then timestamp_add(r.start_time, interval @silent_hours hour) else greatest(r.last_sign_at, r.start_time) end),
      n.ends_at) as claimed_to
  from window_runs r
  cross join month n
  where r.start_time is not null
),
claims as (
  select
    r.tracking_server, r.workspace, r.run_id,
    case
      when r.job_key is not null then 'job_id'
      when m.resource_key is not null then 'resource_id'
      when r.pool_key is not null then 'pool_time'
      else 'instance_type_time'
    end as match_method,
    coalesce(
      r.job_key, m.resource_id, r.pool_key,
      -- A description of everything that the run states about its machines.
      concat(
        lower(r.instance_type), coalesce(concat(', ', replace(r.stated_option, '_', ' ')), ''), coalesce(concat(', ', r.stated_zone), concat(', ', r.stated_region), ''),
        coalesce(concat(', account ', r.stated_account), ''))) as claim,
    lower(r.instance_type) as instance_type, r.stated_account, r.stated_region, r.stated_zone, r.stated_option,
    greatest(1, coalesce(r.num_nodes, 1)) as nodes,
    b.billed_until, r.newest_billed_until, coalesce(b.is_excluded, false) as is_excluded,
    -- The run states its account, or the name of its job or machine contains it.
    coalesce(
      r.stated_account,
      regexp_extract(coalesce(r.job_key, m.resource_key), r'^arn:[^:]*:[^:]*:[^:]*:([^:]+):'),
      regexp_extract(coalesce(r.job_key, m.resource_key), r'^/?(?:subscriptions|projects)/([^/]+)/')) as account,
    m.resource_key, coalesce(j.billed_key, r.job_key) as job_key,
    r.claimed_from, r.claimed_to
  from active r
  left join machines m on m.tracking_server = r.tracking_server and m.workspace = r.workspace and m.run_id = r.run_id
  left join on_bill b on b.resource_key = m.resource_key
  left join (
    select tracking_server, run_id, stated_key, min(billed_key) as billed_key from run_names where name_kind = 'job' group by tracking_server, run_id, stated_key
  ) j on j.tracking_server = r.tracking_server and j.run_id = r.run_id and j.stated_key = r.job_key
  where coalesce(r.job_key, m.resource_key, r.pool_key, r.instance_type) is not null
  union all
  select
    r.tracking_server, r.workspace, r.run_id, 'llm_identity', r.principal_key,
    cast(null as string), cast(null as string), cast(null as string), cast(null as string), cast(null as string), 1,
    (select max(charge_period_end) from billing_lines where billing_period = @period and principal_key is not null), r.newest_billed_until, false,
    cast(null as string), cast(null as string), cast(null as string),
    r.claimed_from, r.claimed_to
  from active r
  where r.principal_key is not null
),
runs_with_cost as (
  select distinct tracking_server, workspace, run_id, match_method = 'llm_identity' as is_of_caller
  from cost_allocations
  where billing_period = @period and allocated_to = 'run' and match_method in ('run_tag', 'job_id', 'resource_id', 'llm_identity', 'pool_time', 'instance_type_time')
),
tagged as (
  select
    g.tracking_server, g.run_id, l.pool_key, lower(l.instance_type) as instance_type,
    min(l.charge_period_start) as tagged_from, max(l.charge_period_end) as tagged_to
  from billing_lines l
  join tagged_runs g on g.run_tag = l.run_tag
  where l.billing_period = @period and l.billed_nanoseconds > 0 and l.service_category in ('Compute', 'AI and Machine Learning')
  group by g.tracking_server, g.run_id, l.pool_key, lower(l.instance_type)
),
families as (
  -- A parent has only the time that its children leave, which may be none. Time of a child that states something else is not subtracted.
  -- The exception is a child that states a machine, because it may be a machine of its parent's pool or type.
  select distinct a.tracking_server, a.ancestor_id as run_id, m.is_of_caller
  from run_ancestors a
  join runs_with_cost m on m.tracking_server = a.tracking_server and m.run_id = a.run_id
  left join claims p on p.tracking_server = a.tracking_server and p.run_id = a.ancestor_id and (p.match_method = 'llm_identity') = m.is_of_caller
  left join claims o on o.tracking_server = a.tracking_server and o.run_id = a.run_id and (o.match_method = 'llm_identity') = m.is_of_caller
  where o.run_id is null or p.run_id is null
    or (o.match_method = p.match_method and case o.match_method when 'job_id' then o.job_key = p.job_key when 'resource_id' then o.resource_key = p.resource_key else o.claim = p.claim end)
    or (o.match_method in ('job_id', 'resource_id') and p.match_method in ('pool_time', 'instance_type_time'))
  union distinct
  -- A nested run used the machines that are tagged with its ancestor's id. The ancestor has their cost.
  select a.tracking_server, a.run_id, false
  from run_ancestors a
  join tagged t on t.tracking_server = a.tracking_server and t.run_id = a.ancestor_id
  join claims c on c.tracking_server = a.tracking_server and c.run_id = a.run_id and c.claimed_from < t.tagged_to and c.claimed_to > t.tagged_from
    and ((c.match_method = 'pool_time' and c.claim = t.pool_key) or (c.match_method = 'instance_type_time' and c.instance_type = t.instance_type))
),
unmet as (
  select
    c.tracking_server, c.workspace, c.run_id, c.match_method, c.claim, c.instance_type, c.stated_account, c.stated_region, c.stated_zone, c.stated_option, c.is_excluded,
    c.account, c.resource_key, c.job_key, c.nodes, c.claimed_from, c.claimed_to,
    -- The time until which the bill with the stated job, pool or type is complete. If no bill has it, the latest such time of any bill.
    coalesce(c.billed_until, b.billed_until, c.newest_billed_until) as billed_until
  from claims c
  left join bills_with b on b.match_method = c.match_method
    and b.name = case c.match_method when 'job_id' then c.job_key when 'pool_time' then c.claim when 'instance_type_time' then c.instance_type end
  left join runs_with_cost m
    on m.tracking_server = c.tracking_server and m.workspace = c.workspace and m.run_id = c.run_id and m.is_of_caller = (c.match_method = 'llm_identity')
  left join families f on f.tracking_server = c.tracking_server and f.run_id = c.run_id and f.is_of_caller = (c.match_method = 'llm_identity')
  where c.claimed_to > c.claimed_from and m.run_id is null and f.run_id is null
  qualify row_number() over (partition by c.tracking_server, c.workspace, c.run_id order by case when c.match_method = 'llm_identity' then 1 else 0 end) = 1
),
gaps as (
  -- A run asks for nothing while it is stopped.
  select
    c.tracking_server, c.workspace, c.run_id,
    cast(sum(timestamp_diff(least(g.gap_end, c.claimed_to), greatest(g.gap_start, c.claimed_from), microsecond)) as int64) as microseconds
  from unmet c
  join run_gaps g on g.tracking_server = c.tracking_server and g.workspace = c.workspace and g.run_id = c.run_id
    and g.gap_start < c.claimed_to and g.gap_end > c.claimed_from
  group by c.tracking_server, c.workspace, c.run_id
),
billed_types as (
  -- Only pools and instance types that these runs ask for. There are few of them.
  select distinct
    l.pool_key, lower(l.instance_type) as instance_type, regexp_replace(lower(l.sub_account_id), r'^/?(subscriptions|projects)/', '') as account,
    lower(l.region_id) as region, lower(l.availability_zone) as zone,
    purchase_option(l.pricing_category) as purchase_option,
    l.charge_period_start, l.charge_period_end, coalesce(l.scope, '') = 'shared' as is_declared
  from billing_lines l
  left join (select distinct claim as named from unmet where match_method = 'pool_time') p on p.named = l.pool_key
  left join (select distinct instance_type as named from unmet where match_method = 'instance_type_time') t on t.named = lower(l.instance_type)
  where l.billing_period = @period and l.charge_category = 'Usage' and (p.named is not null or t.named is not null)
),
stated_charges as (
  select distinct l.resource_key, l.job_key, l.charge_period_start, l.charge_period_end
  from billing_lines l
  left join (select distinct resource_key as named from unmet where match_method = 'resource_id') m on m.named = l.resource_key
  left join (select distinct job_key as named from unmet where match_method = 'job_id') j on j.named = l.job_key
  where l.billing_period = @period and coalesce(l.scope, '') <> 'exclude' and l.charge_category = 'Usage' and l.charge_period_end > l.charge_period_start
    and at_most_a_day(l.charge_period_start, l.charge_period_end)
    and (m.named is not null or j.named is not null)
),
taken_by_others as (
  -- The run's machine or job was billed while the run was active, but other runs got its cost, for example by a tag on its lines.
  select distinct u.tracking_server, u.workspace, u.run_id
  from unmet u
  join stated_charges h on h.resource_key = u.resource_key
  where u.match_method = 'resource_id' and h.charge_period_start < u.claimed_to and h.charge_period_end > u.claimed_from
  union distinct
  select distinct u.tracking_server, u.workspace, u.run_id
  from unmet u
  join stated_charges h on h.job_key = u.job_key
  where u.match_method = 'job_id' and h.charge_period_start < u.claimed_to and h.charge_period_end > u.claimed_from
),
split_machines as (
  -- Parts of machines that pods or tasks share, by the last part of the machine's name.
  select distinct node_key, regexp_extract(node_key, r'[^/]*$') as short_name, charge_period_start, charge_period_end
  from billing_lines
  where billing_period = @period and node_key is not null and charge_category = 'Usage' and pool_key is null
),
split_runs as (
  -- The run's machine was billed while the run was active, but the bill gives its cost to pods.
  select distinct u.tracking_server, u.workspace, u.run_id
  from unmet u
  join split_machines s on s.short_name = regexp_extract(u.resource_key, r'[^/]*$')
  where u.match_method = 'resource_id' and s.charge_period_start < u.claimed_to and s.charge_period_end > u.claimed_from
    and (s.node_key = u.resource_key or s.short_name = u.resource_key)
),
billed_then as (
  -- Machines with the stated properties were billed while the run was active.
  select u.tracking_server, u.workspace, u.run_id, b.is_declared
  from unmet u
  join billed_types b on b.pool_key = u.claim
  where u.match_method = 'pool_time' and b.charge_period_start < u.claimed_to and b.charge_period_end > u.claimed_from
  union distinct
  select u.tracking_server, u.workspace, u.run_id, b.is_declared
  from unmet u
  join billed_types b on b.instance_type = u.instance_type
  where u.match_method = 'instance_type_time' and b.charge_period_start < u.claimed_to and b.charge_period_end > u.claimed_from
    and (u.stated_account is null or b.account is null or b.account = u.stated_account)
    and (u.stated_region is null or b.region is null or b.region = u.stated_region)
    and (u.stated_zone is null or b.zone is null or b.zone = u.stated_zone)
    and (u.stated_option is null or b.purchase_option is null or b.purchase_option = u.stated_option)
  union distinct
  select u.tracking_server, u.workspace, u.run_id, true
  from unmet u
  join billing_lines l on l.principal_key = u.claim
  where u.match_method = 'llm_identity' and l.billing_period = @period and l.scope = 'shared'
    and l.charge_period_start < u.claimed_to and l.charge_period_end > u.claimed_from
),
over_claimed_runs as (
  -- Other runs used all of these machines.
  select tracking_server, workspace, run_id from taken_by_others
  union distinct
  select tracking_server, workspace, run_id from billed_then where not is_declared
),
declared_runs as (
  select distinct tracking_server, workspace, run_id from billed_then where is_declared
)
select
  c.tracking_server, c.workspace, c.run_id, @period as billing_period, c.match_method, c.claim,
  case
    when c.billed_until is null or c.claimed_from >= c.billed_until then 'not_billed_yet'
    when c.is_excluded and c.match_method = 'resource_id' then 'out_of_scope'
    when p.run_id is not null then 'over_claimed'
    when s.run_id is not null then 'split_into_pods'
    when d.run_id is not null then 'declared_shared'
    when x.account is not null then 'out_of_scope'
    else 'no_such_machine'
  end as reason,
  (timestamp_diff(c.claimed_to, c.claimed_from, microsecond) - coalesce(g.microseconds, 0)) / 1e6 * c.nodes as claimed_seconds
from unmet c
left join gaps g on g.tracking_server = c.tracking_server and g.workspace = c.workspace and g.run_id = c.run_id
left join over_claimed_runs p on p.tracking_server = c.tracking_server and p.workspace = c.workspace and p.run_id = c.run_id
left join split_runs s on s.tracking_server = c.tracking_server and s.workspace = c.workspace and s.run_id = c.run_id
left join declared_runs d on d.tracking_server = c.tracking_server and d.workspace = c.workspace and d.run_id = c.run_id
left join excluded_accounts x on x.account = c.account
