-- one row per run, name of a machine or job that it states, and billed name that this name matches.
-- A billed name does not match if its account, region or zone differs from what the run states. A name that only late lines of an earlier bill
-- have matches only if the run began before the period.
with stated as (
  select 'machine' as name_kind, tracking_server, run_id, resource_key as name from run_resources where resource_key is not null
  union all
  select 'job', tracking_server, run_id, job_key from runs where job_key is not null
),
candidates as (
  select
    s.tracking_server, s.run_id, n.name_kind, n.stated_key, n.billed_key, n.billed_kind, n.billed_account, n.billed_number, n.billed_region, n.billed_zone,
    n.billed_holder, n.is_of_others, n.is_ambiguous, lower(r.sub_account_id) as account, lower(r.region_id) as region, lower(r.availability_zone) as zone,
    -- A number cannot be compared with a name. The id of a subscription or project cannot be compared with its display name.
    regexp_contains(n.billed_account, r'^[0-9]+$') = regexp_contains(r.sub_account_id, r'^[0-9]+$')
      and regexp_contains(n.billed_account, r'^[0-9a-f]{8}-[0-9a-f-]{27}$') = regexp_contains(lower(r.sub_account_id), r'^[0-9a-f]{8}-[0-9a-f-]{27}$')
      and regexp_contains(lower(r.sub_account_id), r'^[a-z0-9-]+$') as is_comparable
  from stated s
  join matched_names n on n.name_kind = s.name_kind and n.stated_key = s.name
  join runs r on r.tracking_server = s.tracking_server and r.run_id = s.run_id
  where not n.is_late or r.start_time < timestamp(@period)
),
fitting as (
  select
    tracking_server, run_id, name_kind, stated_key, billed_key, is_of_others, is_ambiguous,
    logical_and(is_of_others) over v as are_all_of_others,
    min(billed_kind) over v <> max(billed_kind) over v or min(billed_account) over v <> max(billed_account) over v
      or min(billed_number) over v <> max(billed_number) over v or min(billed_region) over v <> max(billed_region) over v
      or min(billed_zone) over v <> max(billed_zone) over v or min(billed_holder) over v <> max(billed_holder) over v as is_several
  from candidates
  where not coalesce(is_comparable and billed_account <> account, false) and coalesce(billed_region = region, true) and coalesce(billed_zone = zone, true)
  window v as (partition by tracking_server, run_id, name_kind, stated_key)
)
select distinct tracking_server, run_id, name_kind, stated_key, billed_key, is_ambiguous or is_of_others or coalesce(is_several, false) as is_ambiguous
from fitting
-- If another run states a billed name in full, the name belongs to that run, unless the shorter name can match nothing else.
where not is_of_others or are_all_of_others
