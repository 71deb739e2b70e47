-- one row per group key that charges of several regions share, and region. Each region then has a separate group of that name.
-- A region without machines, such as "global", does not separate groups, unless its name has the form of a region of AWS or Google:
-- a load balancer stays in its region, even if its node group no longer has machines there.
with regions as (
  select distinct region_id
  from billing_lines
  where billing_period = @period and region_id is not null and charge_category = 'Usage' and (billed_nanoseconds > 0 or instance_type is not null)
    and service_category in ('Compute', 'AI and Machine Learning')
  union distinct
  select region_id from earlier_machines where region_id is not null
  union distinct
  select region_id
  from (select distinct region_id from billing_lines where billing_period = @period and array_length(group_keys) > 0) grouped
  where regexp_contains(region_id, r'^[a-z]+(-[a-z]+)+-?[0-9]+$')
),
sets as (
  select l.region_id, any_value(l.group_keys) as group_keys
  from billing_lines l
  join regions r on r.region_id = l.region_id
  where l.billing_period = @period and array_length(l.group_keys) > 0
  group by l.region_id, array_to_string(l.group_keys, chr(31))
),
keys as (
  select distinct group_key, region_id
  from sets
  cross join unnest(group_keys) as group_key
  union distinct
  select group_key, e.region_id
  from earlier_machines e
  cross join unnest(split(e.group_text, chr(31))) as group_key
  where e.region_id is not null
),
keys_in_regions as (
  select group_key, region_id
  from keys
  union distinct
  -- A node group that is named without its cluster.
  select regexp_replace(group_key, r'^([^|@]*)@[^|]*', r'\1'), region_id
  from keys
)
select group_key, region_id
from keys_in_regions
qualify count(*) over (partition by group_key) > 1
