-- one row per run that asks for machines of an instance type: the run to which the claim belongs, the number of machines,
-- and the other stated properties
with typed as (
  select
    tracking_server, workspace, run_id, run_id as claim_run_id, lower(instance_type) as instance_type, num_nodes, gpu_count,
    stated_account, stated_region, stated_zone, stated_option
  from window_runs
  where instance_type is not null
  union all
  -- A run that states no type gets that of its nearest ancestor that states one.
  -- If the run also states no number of nodes or GPUs, it shares the claim of the ancestor.
  select
    r.tracking_server, r.workspace, r.run_id,
    case when r.num_nodes is null and r.gpu_count is null then h.run_id else r.run_id end,
    lower(h.instance_type),
    case when r.num_nodes is null and r.gpu_count is null then h.num_nodes else r.num_nodes end,
    case when r.num_nodes is null and r.gpu_count is null then h.gpu_count else r.gpu_count end,
    coalesce(r.stated_account, h.sub_account_id), coalesce(r.stated_region, h.region_id),
    -- If the run states its own region, the ancestor's zone does not apply.
    case when r.stated_region is null then coalesce(r.stated_zone, h.availability_zone) else r.stated_zone end,
    coalesce(r.stated_option, h.purchase_option)
  from window_runs r
  join run_ancestors a on a.tracking_server = r.tracking_server and a.run_id = r.run_id
  join runs h on h.tracking_server = a.tracking_server and h.run_id = a.ancestor_id
  where r.instance_type is null and h.instance_type is not null
  qualify row_number() over (partition by r.tracking_server, r.run_id order by a.distance, a.ancestor_id) = 1
)
select
  tracking_server, workspace, run_id, claim_run_id, instance_type, num_nodes, gpu_count, stated_account, stated_region, stated_zone, stated_option,
  concat(
    coalesce(concat('=', replace(stated_account, '|', '||')), '-'), '|', coalesce(concat('=', replace(stated_region, '|', '||')), '-'), '|',
    coalesce(concat('=', replace(stated_zone, '|', '||')), '-'), '|', coalesce(concat('=', stated_option), '-')) as statement
from typed
