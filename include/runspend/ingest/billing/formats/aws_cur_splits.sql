-- One row per row of split cost allocation data. It states how much of an instance a pod or task had in an hour or day, for CPU or memory.
-- Reads the view `cur`, whose columns have their CUR 2.0 names. The weight is the part of the instance's amortized cost that AWS allocates
-- to the pod. It is the used part plus a share of the unused part.
-- Source: AWS, "Understanding split cost allocation data".
with parts as (
  select
    *,
    if(
      getvariable('is_net') and split_line_item_net_split_cost is not null,
      coalesce(try_cast(split_line_item_net_split_cost as decimal(38, 22)), 0) + coalesce(try_cast(split_line_item_net_unused_cost as decimal(38, 22)), 0),
      coalesce(try_cast(split_line_item_split_cost as decimal(38, 22)), 0) + coalesce(try_cast(split_line_item_unused_cost as decimal(38, 22)), 0)
    ) as cost
  from cur
  where line_item_operation in ('EKSPod-EC2', 'ECSTask-EC2')
)
select
  split_line_item_parent_resource_id as resource,
  null as resource_name,
  line_item_resource_id as part_id,
  -- arn:aws:eks:REGION:ACCOUNT:pod/CLUSTER/NAMESPACE/NAME/UID, arn:aws:ecs:REGION:ACCOUNT:task/CLUSTER/ID
  coalesce(
    nullif(regexp_extract(line_item_resource_id, '^arn:aws[^:]*:eks:[^:]*:[^:]*:pod/[^/]*/[^/]+/([^/]+)', 1), ''),
    nullif(regexp_extract(line_item_resource_id, '[^/]+$'), '')
  ) as part_name,
  coalesce(nullif(resource_tags, '{}'), nullif(tags, '{}'), tag_columns) as part_tags,
  line_item_usage_start_date as from_time,
  line_item_usage_end_date as to_time,
  cost as weight,
  false as is_idle,
  month_of(instant(bill_billing_period_start_date)) as billing_period,
  case
    when split_line_item_parent_resource_id is null then 'split cost allocation without a parent'
    when line_item_resource_id is null then 'split cost allocation without a pod or task'
    when cost = 0 then 'split cost allocation of no cost'
    when cost < 0 then 'split cost allocation below zero'
    when instant(line_item_usage_start_date) is null or instant(line_item_usage_end_date) is null
      then 'split cost allocation without a time'
  end as skip_reason
from parts
