-- one row per set of group keys (as text) on the period's charges, if at least one of its keys is also on a machine that runs, their jobs,
-- a pool or an instance type may use. For late charges, the machine may be on an earlier bill.
with sets as (
  select distinct array_to_string(group_keys, chr(31)) as group_text, group_keys
  from billing_lines
  where billing_period = @period and array_length(group_keys) > 0
),
sets_of_machines as (
  select distinct array_to_string(l.group_keys, chr(31)) as group_text
  from billing_lines l
  left join (select distinct resource_key from known_machines) m on m.resource_key = l.resource_key
  left join (select distinct job_key from allocated_jobs) j on j.job_key = l.job_key
  left join usable_machines u on u.resource_key = l.resource_key
  where l.billing_period = @period and array_length(l.group_keys) > 0
    and (m.resource_key is not null or j.job_key is not null or u.resource_key is not null)
),
whole_keys as (
  select distinct group_key
  from sets s
  join sets_of_machines m on m.group_text = s.group_text
  cross join unnest(s.group_keys) as group_key
  union distinct
  select distinct group_key
  from earlier_machines e
  join (select distinct resource_key from known_machines) m on m.resource_key = e.resource_key
  cross join unnest(split(e.group_text, chr(31))) as group_key
),
keys_of_machines as (
  select group_key from whole_keys
  union distinct
  -- A node group may be named without its cluster.
  select regexp_replace(group_key, r'^([^|@]*)@[^|]*', r'\1') from whole_keys
)
select distinct s.group_text
from sets s
cross join unnest(s.group_keys) as key
join keys_of_machines k on k.group_key = key
