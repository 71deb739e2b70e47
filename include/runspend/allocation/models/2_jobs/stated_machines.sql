-- one row per run that may have been running (or an ancestor of one), machine that it states, and time range that it states for the machine.
-- The name of the machine is that on the bill.
select
  s.tracking_server, s.workspace, s.run_id, s.resource_id, coalesce(n.billed_key, s.resource_key) as resource_key, s.used_from, s.used_to,
  coalesce(n.is_ambiguous, false) as is_ambiguous
from run_resources s
join (
  select tracking_server, run_id from window_runs
  union distinct
  select tracking_server, ancestor_id as run_id from run_ancestors
) w on w.tracking_server = s.tracking_server and w.run_id = s.run_id
left join (select tracking_server, run_id, stated_key, billed_key, is_ambiguous from run_names where name_kind = 'machine') n
  on n.tracking_server = s.tracking_server and n.run_id = s.run_id and n.stated_key = s.resource_key
where s.resource_key is not null
