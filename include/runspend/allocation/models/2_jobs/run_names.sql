-- one row per run, name of a machine or job that it states, and billed name that this name matches.
-- A billed name of another account, region or zone than the run states does not match.
with stated as (
  select 'machine' as thing, tracking_server, run_id, resource_key as name from run_resources where resource_key is not null
  union all
  select 'job', tracking_server, run_id, job_key from runs where job_key is not null
),
matched as (
  select
    s.tracking_server, s.run_id, n.thing, n.stated_key, n.billed_key, n.is_ambiguous, n.billed_region, n.billed_zone, r.region_id, r.availability_zone,
    n.billed_account, r.sub_account_id,
    -- An account number cannot be compared with an account's name, nor a subscription's ID with its name.
    regexp_contains(n.billed_account, r'^[0-9]+$') = regexp_contains(r.sub_account_id, r'^[0-9]+$')
      and regexp_contains(n.billed_account, r'^[0-9a-f]{8}-[0-9a-f-]{27}$') = regexp_contains(r.sub_account_id, r'^[0-9a-f]{8}-[0-9a-f-]{27}$') as is_comparable
  from stated s
  join matched_names n on n.thing = s.thing and n.stated_key = s.name
  join runs r on r.tracking_server = s.tracking_server and r.run_id = s.run_id
)
select distinct tracking_server, run_id, thing, stated_key, billed_key, is_ambiguous
from matched
where not coalesce(is_comparable and billed_account <> sub_account_id, false) and coalesce(billed_region = region_id, true) and coalesce(billed_zone = availability_zone, true)
