-- one row per rule that prices lines together (except `attached`), key, charge period and target, numbered along the charge period
with targets as (
  select match_method, target_key, window_start, window_end, allocated_to, tracking_server, workspace, run_id, owner_id, reason, weight_kind, run_end_rule, is_scaled, nanoseconds, ratio_from, ratio_to, is_last
  from storage_targets
  union all
  select match_method, target_key, window_start, window_end, allocated_to, tracking_server, workspace, run_id, owner_id, reason, weight_kind, run_end_rule, is_scaled, nanoseconds, ratio_from, ratio_to, is_last
  from identity_targets
  union all
  select match_method, target_key, window_start, window_end, allocated_to, tracking_server, workspace, run_id, owner_id, reason, weight_kind, run_end_rule, is_scaled, nanoseconds, ratio_from, ratio_to, is_last
  from llm_targets
  union all
  select match_method, target_key, window_start, window_end, allocated_to, tracking_server, workspace, run_id, owner_id, reason, weight_kind, run_end_rule, is_scaled, nanoseconds, ratio_from, ratio_to, is_last
  from pool_targets
  union all
  select match_method, target_key, window_start, window_end, allocated_to, tracking_server, workspace, run_id, owner_id, reason, weight_kind, run_end_rule, is_scaled, nanoseconds, ratio_from, ratio_to, is_last
  from pool_other_shares
  union all
  select match_method, target_key, window_start, window_end, allocated_to, tracking_server, workspace, run_id, owner_id, reason, weight_kind, run_end_rule, is_scaled, nanoseconds, ratio_from, ratio_to, is_last
  from type_targets
)
select
  match_method, target_key, window_start, window_end, allocated_to, tracking_server, workspace, run_id, owner_id, reason, weight_kind, run_end_rule, is_scaled, nanoseconds, ratio_from, ratio_to, is_last,
  row_number() over (partition by match_method, target_key, window_start, window_end order by ratio_from) as target_number
from targets
