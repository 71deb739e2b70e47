-- one row per group key that charges of several regions share, and region: a group of one name in each of them.
-- A region without machines, such as "global", tells no groups apart.
with regions as (
  select distinct region_id
  from billing_lines
  where billing_period = @period and region_id is not null and charge_category = 'Usage' and (billed_nanoseconds > 0 or instance_type is not null)
    and service_category in ('Compute', 'AI and Machine Learning')
),
sets as (
  select distinct array_to_string(l.group_keys, chr(31)) as group_text, l.region_id
  from billing_lines l
  join regions r on r.region_id = l.region_id
  where l.billing_period = @period and array_length(l.group_keys) > 0
),
keys as (
  select distinct array_to_string(group_keys, chr(31)) as group_text, group_key
  from billing_lines
  cross join unnest(group_keys) as group_key
  where billing_period = @period and array_length(group_keys) > 0
),
keys_in_regions as (
  select k.group_key, s.region_id
  from sets s
  join keys k on k.group_text = s.group_text
  union distinct
  -- A node group that is named without its cluster.
  select regexp_replace(k.group_key, r'^([^|@]*)@[^|]*', r'\1'), s.region_id
  from sets s
  join keys k on k.group_text = s.group_text
)
select group_key, region_id
from keys_in_regions
qualify count(*) over (partition by group_key) > 1
