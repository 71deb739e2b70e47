-- one row per bill and part of it (an account, or an instance type that runs ask for): how far it bills machines that serve runs
with accounts as (
  select source, account, least(coalesce(max(case when is_asked or is_claimed then charge_period_end end), max(charge_period_end)), @now) as billed_until
  from estimate_windows
  where is_usage
  group by source, account
)
select source, concat('account ', account) as part, billed_until
from accounts
union all
-- a type is billed as far as the last of the accounts that have it
select t.source, concat('type ', t.instance_type), min(a.billed_until)
from (select distinct source, account, instance_type from estimate_windows where is_usage and instance_type is not null) t
join accounts a on a.source = t.source and a.account = t.account
group by t.source, t.instance_type
