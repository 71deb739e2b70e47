-- one row per machine that runs, a pool or an instance type may use, and key by which charges of other resources can be attached to it:
-- its own name, the name of its scale set, or a group that it is in
with other_keys as (
  -- Groups that only machines have need no row.
  select distinct group_key
  from (
    select any_value(group_keys) as group_keys
    from billing_lines
    where billing_period = @period and array_length(group_keys) > 0
      and (charge_category = 'Usage' or charge_date < @period)
      and (coalesce(service_category, '') not in ('Compute', 'AI and Machine Learning') or (instance_type is null and coalesce(billed_nanoseconds, 0) = 0))
    group by array_to_string(group_keys, chr(31))
  )
  cross join unnest(group_keys) as group_key
),
machines as (
  select distinct resource_key from known_machines
  union distinct
  select resource_key from usable_machines
),
sets as (
  -- There are few different sets of keys, but many charges. `tags.py` splits the text at this separator, which is in no key.
  select distinct l.resource_key, array_to_string(l.group_keys, chr(31)) as group_text, l.region_id
  from billing_lines l
  join machines m on m.resource_key = l.resource_key
  where l.billing_period = @period and array_length(l.group_keys) > 0
  union distinct
  select e.resource_key, e.group_text, e.region_id
  from earlier_machines e
  join machines m on m.resource_key = e.resource_key
  where e.group_text is not null
),
keys as (
  select distinct array_to_string(group_keys, chr(31)) as group_text, group_key
  from billing_lines
  cross join unnest(group_keys) as group_key
  where billing_period = @period and array_length(group_keys) > 0
  union distinct
  select e.group_text, group_key
  from earlier_machines e
  cross join unnest(split(e.group_text, chr(31))) as group_key
),
short_keys as (
  -- A node group with its cluster is written account@CLUSTER|key|value.
  -- A charge that names only the node group means this one if only one cluster has such a group.
  select min(group_key) as whole_key, regexp_replace(group_key, r'^([^|@]*)@[^|]*', r'\1') as short_key
  from keys
  where regexp_contains(group_key, r'^[^|@]*@')
  group by regexp_replace(group_key, r'^([^|@]*)@[^|]*', r'\1')
  having min(group_key) = max(group_key)
),
found as (
  select s.resource_key, k.group_key, s.region_id
  from sets s
  join keys k on k.group_text = s.group_text
  join other_keys o on o.group_key = k.group_key
  union distinct
  select s.resource_key, a.short_key, s.region_id
  from sets s
  join keys k on k.group_text = s.group_text
  join short_keys a on a.whole_key = k.group_key
  join other_keys o on o.group_key = a.short_key
)
select distinct f.resource_key, case when r.region_id is null then f.group_key else concat(f.group_key, '|', r.region_id) end as target_key
from found f
left join group_regions r on r.group_key = f.group_key and r.region_id = f.region_id
union distinct
select attached_to, concat('machine|', attached_to) as target_key
from attachable_machines
union distinct
-- A charge that names an Azure scale set is attached to all machines of the scale set.
select m.resource_key, concat('machine|', a.attached_to)
from machines m
join attachable_machines a on a.attached_to = scale_set_of(m.resource_key)
