-- one row per run id that is in a tag on the bill and that a tracking server knows.
-- Account and region are those of the machines that the run states, if the bill has only one of each.
with tags as (
  select distinct run_tag from billing_lines where billing_period = @period and run_tag is not null
),
tagged as (
  -- A server and its copy have runs with the same ids. The first server gets the cost.
  select
    r.run_id as run_tag, r.run_id, r.tracking_server, r.workspace, r.start_time, r.end_time, r.gpu_count, r.cpu_request, r.memory_request_gb,
    count(*) over (partition by r.run_id) > 1 as is_ambiguous
  from runs r
  join tags t on t.run_tag = r.run_id
  qualify row_number() over (partition by r.run_id order by r.tracking_server, r.workspace) = 1
),
stated as (
  select distinct t.run_tag, s.resource_key
  from tagged t
  join window_runs w on w.tracking_server = t.tracking_server and w.workspace = t.workspace and w.run_id = t.run_id
  join stated_machines s on s.tracking_server = t.tracking_server and s.workspace = t.workspace and s.run_id = t.run_id
),
machines as (
  select resource_key, sub_account_id, region_id
  from billing_lines
  where billing_period = @period and resource_key in (select resource_key from stated)
  group by resource_key, sub_account_id, region_id
),
places as (
  select
    s.run_tag,
    case when min(m.sub_account_id) = max(m.sub_account_id) then min(m.sub_account_id) end as sub_account_id,
    case when min(m.region_id) = max(m.region_id) then min(m.region_id) end as region_id
  from stated s
  join machines m on m.resource_key = s.resource_key
  group by s.run_tag
)
select
  t.run_tag, t.run_id, t.tracking_server, t.workspace, t.start_time, t.end_time, t.gpu_count, t.cpu_request, t.memory_request_gb,
  t.is_ambiguous, p.sub_account_id, p.region_id
from tagged t
left join places p on p.run_tag = t.run_tag
