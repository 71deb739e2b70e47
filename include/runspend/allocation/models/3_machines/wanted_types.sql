-- one row per instance type for which a run asks without having its own machines for its whole time.
-- The row also shows which other properties such runs state.
with partly as (
  -- The run states machines for only some of its nodes. It asks for machines for the other nodes.
  select t.tracking_server, t.run_id
  from type_claims t
  join (select tracking_server, run_id, count(distinct resource_key) as machines from run_spans group by tracking_server, run_id) m
    on m.tracking_server = t.tracking_server and m.run_id = t.run_id
  where t.num_nodes > m.machines
),
identified as (
  select tracking_server, workspace, run_id from claimed_runs
  union distinct
  select r.tracking_server, r.workspace, r.run_id
  from window_runs r
  join run_spans s on s.tracking_server = r.tracking_server and s.workspace = r.workspace and s.run_id = r.run_id
  left join partly p on p.tracking_server = r.tracking_server and p.run_id = r.run_id
  where p.run_id is null and s.span_start <= greatest(r.start_time, @window_start) and (r.end_time is null or s.span_end >= least(r.end_time, @window_end))
)
select
  t.instance_type,
  logical_or(t.stated_account is not null) as by_account, logical_or(t.stated_region is not null) as by_region,
  logical_or(t.stated_zone is not null) as by_zone, logical_or(t.stated_option is not null) as by_option
from type_claims t
left join identified i on i.tracking_server = t.tracking_server and i.workspace = t.workspace and i.run_id = t.run_id
where i.run_id is null
group by t.instance_type
