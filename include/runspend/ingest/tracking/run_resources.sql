-- One row for each machine that a run states, and for each time range in which the run used it, from `fresh_runs`.
insert into fresh_resources by name
with elements as (
  select tracking_server, workspace, run_id, start_month, load_id, unnest(cast(json_extract(resource_text, '$[*]') as json[])) as element
  from fresh_runs
  where resource_kind = 'list' or (resource_kind = 'ids' and starts_with(resource_text, '['))
),
listed as (
  select
    tracking_server, workspace, run_id, start_month, load_id,
    case json_type(element) when 'OBJECT' then json_extract_string(element, '/id') when 'VARCHAR' then json_extract_string(element, '$') end as resource_id,
    trimmed(case when json_type(element) = 'OBJECT' then json_extract_string(element, '/from') end) as used_from,
    trimmed(case when json_type(element) = 'OBJECT' then json_extract_string(element, '/to') end) as used_to
  from elements
),
separated as (
  select tracking_server, workspace, run_id, start_month, load_id, unnest(string_split(resource_text, ',')) as resource_id, null::varchar as used_from, null::varchar as used_to
  from fresh_runs
  where resource_kind = 'ids' and not starts_with(resource_text, '[')
),
-- A machine stated twice with the same times counts once.
claims as (
  select distinct
    tracking_server, workspace, run_id, start_month, load_id,
    trimmed(resource_id) as resource_id,
    written_instant(used_from) as used_from,
    written_instant(used_to) as used_to,
    (used_from is not null and written_instant(used_from) is null) or (used_to is not null and written_instant(used_to) is null) as has_bad_time
  from (select * from listed union all select * from separated)
),
several as (
  select
    *,
    false as is_single,
    row_number() over (partition by workspace, run_id, resource_id order by used_from nulls first, used_to nulls first, has_bad_time) - 1 as used_ordinal
  from claims
  where resource_id is not null
),
single as (
  select tracking_server, workspace, run_id, start_month, load_id, resource_text as resource_id, null::timestamptz as used_from, null::timestamptz as used_to, false as has_bad_time, true as is_single, 0 as used_ordinal
  from fresh_runs
  where resource_kind = 'one'
)
select
  tracking_server, workspace, run_id, start_month, resource_id,
  {resource_key} as resource_key,
  used_ordinal, used_from, used_to, load_id, has_bad_time, is_single
from (select * from several union all by name select * from single);
