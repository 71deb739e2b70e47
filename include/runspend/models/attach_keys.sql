-- one row per machine that serves runs and key under which lines of other resources may hang on it: its own name, or a group it is in
with machines as (
  select distinct resource_key from known_machines
),
sets as (
  -- sets of keys are few, lines are many; as one text, by the sign that `settle.py` splits them at: no key has it
  select distinct l.resource_key, array_to_string(l.group_keys, chr(31)) as group_text
  from billing_lines l
  join machines m on m.resource_key = l.resource_key
  where l.billing_period = @period and array_length(l.group_keys) > 0
),
keys as (
  select distinct array_to_string(group_keys, chr(31)) as group_text, group_key
  from billing_lines
  cross join unnest(group_keys) as group_key
  where billing_period = @period and array_length(group_keys) > 0
)
select distinct s.resource_key, k.group_key as target_key
from sets s
join keys k on k.group_text = s.group_text
union distinct
select attached_to, concat('machine|', attached_to) as target_key
from attachable_machines
