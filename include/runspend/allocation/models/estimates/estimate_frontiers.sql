-- one row per bill and part of it (an account, or an instance type that runs ask for): the time until which it bills machines that serve runs
with asked as (
  select resource_key from run_resources where resource_key is not null
  union distinct
  select billed_key as resource_key from matched_names where name_kind = 'machine'
),
types as (
  select s.instance_type from estimate_seen s join asked a on a.resource_key = s.resource_key
  union distinct
  select lower(instance_type) as instance_type from window_runs
),
uses as (
  select
    s.source, s.account, s.instance_type, s.used_until,
    a.resource_key is not null as is_asked, c.instance_type is not null as is_claimed
  from estimate_seen s
  left join asked a on a.resource_key = s.resource_key
  left join types t on t.instance_type = s.instance_type
  left join (select distinct instance_type from estimate_claims) c on c.instance_type = s.instance_type
  where s.used_until is not null and (a.resource_key is not null or t.instance_type is not null)
),
reached as (
  -- A bill contains the hours of each account after at most three days. An account that is further behind no longer uses such machines.
  select source, timestamp_sub(max(used_until), interval 72 hour) as billed_until
  from estimate_seen
  where used_until is not null
  group by source
),
accounts as (
  select
    u.source, u.account,
    least(greatest(coalesce(max(case when u.is_asked or u.is_claimed then u.used_until end), max(u.used_until)), max(r.billed_until)), @now) as billed_until
  from uses u
  join reached r on r.source = u.source
  group by u.source, u.account
)
select source, concat('account ', account) as part, billed_until
from accounts
union all
-- A type is billed until the earliest of these times among the accounts that have it.
select t.source, concat('type ', t.instance_type), min(a.billed_until)
from (select distinct source, account, instance_type from uses where instance_type is not null) t
join accounts a on a.source = t.source and a.account = t.account
group by t.source, t.instance_type
