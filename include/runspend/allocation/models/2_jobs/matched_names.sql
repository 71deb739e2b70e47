-- one row per stated name of a machine or job and billed name that it may mean, if the two differ or the match is ambiguous.
-- For each run, run_names.sql chooses among them by the place that the run states.
-- Equal names need no row. A shorter name matches a longer one if no part that both state (account, region, zone, …) differs.
with present as (
  select tracking_server, run_id from window_runs
  union distinct
  select tracking_server, ancestor_id as run_id from run_ancestors
),
stated as (
  select 'machine' as name_kind, s.resource_key as name
  from run_resources s
  join present p on p.tracking_server = s.tracking_server and p.run_id = s.run_id
  where s.resource_key is not null
  union distinct
  select 'job', r.job_key
  from runs r
  join present p on p.tracking_server = r.tracking_server and p.run_id = r.run_id
  where r.job_key is not null
),
names as (
  select name_kind, name, logical_or(is_billed) as is_billed, logical_or(is_stated) as is_stated, logical_or(is_several) as is_several, logical_or(is_of_only_workspace) as is_of_only_workspace,
    logical_or(is_late) as is_late
  from (
    select name_kind, name, true as is_billed, false as is_stated, is_several, is_of_only_workspace, is_late from bill_names
    union all
    select name_kind, name, false, true, false, false, false from stated
  )
  group by name_kind, name
),
ends as (
  -- A name that is only on an earlier bill may have another form on this bill.
  select name_kind, name, is_billed, is_stated, is_stated and (is_late or not is_billed) as is_asked, case when strpos(name, '/') > 0 then regexp_extract(name, r'[^/]*$') else name end as last_part
  from names
),
asked as (
  -- Most names are equal on both sides; only the others need a comparison.
  select n.name_kind, n.name, n.is_billed, n.is_stated, n.is_asked
  from ends n
  join (select distinct name_kind, last_part from ends where is_asked) w on w.name_kind = n.name_kind and w.last_part = n.last_part
),
kinds as (
  -- Only these platforms have shorter and longer names. Elsewhere, a slash is an ordinary character.
  select
    name_kind, name, is_billed, is_stated, is_asked,
    case
      when strpos(name, '/') = 0 then cast(null as string)
      when regexp_contains(name, r'^arn:[^:]*:(sagemaker|batch):') then regexp_extract(name, r'^arn:[^:]*:(.*)/[^/]*$')
      when regexp_contains(name, r'^(arn:[^:]*:eks:[^:]*:[^:]*:pod/|k8s://)') then 'pod'
      when regexp_contains(name, r'^projects/[^/]+/(zones|regions)/[^/]+/instances/') then 'instance'
      when regexp_contains(name, r'^projects/[^/]+/locations/[^/]+/[a-z]+/[^/]+$') then regexp_extract(name, r'/([a-z]+)/[^/]+$')
      when regexp_contains(name, r'/workspaces/[^/]+/(jobs|computes)/[^/]+$') then 'azureml'
      when name_kind = 'job' and regexp_contains(name, r'^[^/]+/[0-9]+([_+][0-9]+)?$') then 'numbered'
    end as stated_kind
  from asked
),
parts as (
  -- A part that is missing in a name is empty or null. A project number cannot be compared with a project name.
  select
    name_kind, name, is_billed, is_stated, is_asked,
    case when starts_with(name, 'arn:') and stated_kind <> 'pod' then concat(regexp_extract(stated_kind, r'^[^:]*'), regexp_extract(stated_kind, r':([^:]*)$')) else stated_kind end as kind,
    case
      when stated_kind is null then name
      when stated_kind = 'pod' then regexp_extract(name, r'[^/]+/[^/]+$')
      else regexp_extract(name, r'[^/]+$')
    end as short_name,
    case
      when stated_kind is null then cast(null as string)
      when starts_with(name, 'arn:') then nullif(regexp_extract(name, r'^arn:[^:]*:[^:]*:[^:]*:([^:]*):'), '')
      when starts_with(name, 'projects/') and not regexp_contains(name, r'^projects/[0-9]+/') then regexp_extract(name, r'^projects/([^/]+)/')
      when stated_kind = 'azureml' and strpos(name, '/subscriptions/') = 1 then regexp_extract(name, r'^/subscriptions/([^/]+)')
    end as account,
    case when stated_kind is not null and regexp_contains(name, r'^projects/[0-9]+/') then regexp_extract(name, r'^projects/([0-9]+)/') end as account_number,
    case
      when stated_kind is null then cast(null as string)
      when starts_with(name, 'arn:') then nullif(regexp_extract(name, r'^arn:[^:]*:[^:]*:([^:]*):'), '')
      when regexp_contains(name, r'/zones/[^/]+-[a-z0-9]+/') then regexp_extract(name, r'/zones/([^/]+)-[a-z0-9]+/')
      when regexp_contains(name, r'/(regions|locations)/[^/]+/') then regexp_extract(name, r'/(?:regions|locations)/([^/]+)/')
    end as region,
    case when stated_kind = 'instance' and regexp_contains(name, r'/zones/[^/]*[^/-]/') then regexp_extract(name, r'/zones/([^/]+)/') end as zone,
    case
      when stated_kind = 'pod' and starts_with(name, 'arn:') then nullif(regexp_extract(name, r':pod/([^/]*)/'), '')
      when stated_kind = 'pod' then nullif(regexp_extract(name, r'^k8s://([^/]*)/'), '')
      when stated_kind = 'azureml' then regexp_extract(name, r'^(.*)/(?:jobs|computes)/[^/]+$')
      when stated_kind = 'numbered' then regexp_extract(name, r'^([^/]+)/')
    end as holder
  from kinds
),
pairs as (
  select
    s.name_kind, s.name as stated_key, b.name as billed_key,
    s.kind as stated_kind, s.account as stated_account, s.account_number as stated_number, s.region as stated_region, s.zone as stated_zone, s.holder as stated_holder,
    b.kind as billed_kind, b.account as billed_account, b.account_number as billed_number, b.region as billed_region, b.zone as billed_zone, b.holder as billed_holder,
    -- Google's numeric IDs of instances and jobs are globally unique, so they prove a match.
    not regexp_contains(s.short_name, r'^[0-9]{15,}$')
      and ((s.account_number is not null and b.account is not null) or (b.account_number is not null and s.account is not null)) as is_unproven,
    b.is_stated as is_of_others
  from (select * from parts where is_asked) s
  join (select * from parts where is_billed) b on b.name_kind = s.name_kind and b.short_name = s.short_name and b.name <> s.name
  where coalesce(s.kind = b.kind, true) and coalesce(s.account = b.account, true) and coalesce(s.account_number = b.account_number, true)
    and coalesce(s.region = b.region, true) and coalesce(s.zone = b.zone, true) and coalesce(s.holder = b.holder, true)
),
several_stated as (
  select name_kind, billed_key
  from pairs
  group by name_kind, billed_key
  having min(stated_kind) <> max(stated_kind) or min(stated_account) <> max(stated_account) or min(stated_number) <> max(stated_number)
    or min(stated_region) <> max(stated_region) or min(stated_zone) <> max(stated_zone) or min(stated_holder) <> max(stated_holder)
)
select
  p.name_kind, p.stated_key, p.billed_key, p.billed_kind, p.billed_account, p.billed_number, p.billed_region, p.billed_zone, p.billed_holder, p.is_of_others and not n.is_of_only_workspace as is_of_others,
  p.is_unproven or n.is_several or s.billed_key is not null as is_ambiguous, n.is_late
from pairs p
join names n on n.name_kind = p.name_kind and n.name = p.billed_key
left join several_stated s on s.name_kind = p.name_kind and s.billed_key = p.billed_key
union all
-- If a run states a short name exactly as billed, this name is one of several candidates. A name on the bill may also mean several things:
-- pods of two clusters, or job numbers of two SLURM clusters, that have the same name in two regions.
select
  n.name_kind, n.name, n.name, cast(null as string), cast(null as string), cast(null as string), cast(null as string), cast(null as string), cast(null as string), false, true, n.is_late
from names n
left join several_stated s on s.name_kind = n.name_kind and s.billed_key = n.name
where n.is_stated and n.is_billed and (s.billed_key is not null or n.is_several)
