-- one row per line that no stronger rule allocates, attached by the closest key whose machines any rule allocates to runs in its charge period.
-- `distance` 0: the line names its machine.
with settled as (
  select source, line_id from attached_lines
  union distinct
  select source, line_id from storage_lines
  union distinct
  select source, line_id from identity_lines
  union distinct
  select source, line_id from llm_lines
),
windows as (
  select target_key, window_start, window_end from later_windows where is_reached
  union distinct
  select target_key, window_start, window_end from attached_windows
  union distinct
  select target_key, window_start, window_end from tail_windows
),
shared_keys as (
  -- In a charge period, all machines of a pool or an instance type that no run states are split in the same way. Their disks are priced together.
  select w.target_key, w.window_start, w.window_end, min(concat(f.match_method, '|', f.target_key)) as shared_key
  from later_windows w
  join followed_machines f
    on concat('machine|', f.resource_key) = w.target_key and f.charge_period_start = w.charge_period_start and f.charge_period_end = w.charge_period_end
  left join (select distinct target_key, window_start, window_end from attached_windows) a
    on a.target_key = w.target_key and a.window_start = w.window_start and a.window_end = w.window_end
  where a.target_key is null
  group by w.target_key, w.window_start, w.window_end
  having count(*) = 1 and min(f.window_start) = w.window_start and max(f.window_end) = w.window_end
),
closest as (
  select c.source, c.line_id, c.target_key, c.window_start, c.window_end, c.distance
  from attached_candidates c
  join windows w on w.target_key = c.target_key and w.window_start = c.window_start and w.window_end = c.window_end
  left join settled s on s.source = c.source and s.line_id = c.line_id
  where s.line_id is null and not c.is_of_pool_or_machine
  qualify row_number() over (partition by c.source, c.line_id order by c.distance, c.target_key) = 1
)
select c.source, c.line_id, coalesce(k.shared_key, c.target_key) as target_key, c.window_start, c.window_end, c.distance, k.shared_key is not null as is_shared
from closest c
left join shared_keys k on k.target_key = c.target_key and k.window_start = c.window_start and k.window_end = c.window_end
