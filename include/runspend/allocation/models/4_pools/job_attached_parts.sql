-- one row per attachment key of a matched job, charge period and run of the job: the run's share of the charge period.
-- The key is a group in which the job is, or a machine of the job that other lines name.
-- It is used for lines that are attached to the job's machines.
with sets as (
  select distinct l.job_key, array_to_string(l.group_keys, chr(31)) as group_text, l.region_id
  from billing_lines l
  join (select distinct job_key from allocated_jobs) j on j.job_key = l.job_key
  where l.billing_period = @period and array_length(l.group_keys) > 0
),
keys as (
  select distinct array_to_string(group_keys, chr(31)) as group_text, group_key
  from billing_lines
  cross join unnest(group_keys) as group_key
  where billing_period = @period and array_length(group_keys) > 0
),
attachments as (
  select distinct s.job_key, case when r.region_id is null then k.group_key else concat(k.group_key, '|', r.region_id) end as target_key
  from sets s
  join keys k on k.group_text = s.group_text
  left join group_regions r on r.group_key = k.group_key and r.region_id = s.region_id
  union distinct
  select job_key, target_key
  from job_tails
),
parts as (
  select
    a.target_key, j.charge_period_start, j.charge_period_end, j.tracking_server, j.workspace, j.run_id, j.run_end_rule, j.weight_kind, j.is_scaled, j.is_ambiguous,
    j.ratio_to - j.ratio_from as ratio,
    -- A job without other jobs on its machines has them for the whole charge period, including their start-up.
    case when min(j.job_key) over w = max(j.job_key) over w then j.whole_nanoseconds else j.machine_nanoseconds end as machine_nanoseconds
  from job_targets j
  join attachments a on a.job_key = j.job_key
  window w as (partition by a.target_key, j.charge_period_start, j.charge_period_end)
)
select
  j.target_key, j.charge_period_start, j.charge_period_end, 'run' as allocated_to, j.tracking_server, j.workspace, j.run_id,
  min(j.run_end_rule) as run_end_rule, min(j.weight_kind) as weight_kind, logical_or(j.is_scaled) as is_scaled, logical_or(j.is_ambiguous) as is_ambiguous,
  sum(cast(round(j.ratio * j.machine_nanoseconds) as int64)) as nanoseconds
from parts j
group by j.target_key, j.charge_period_start, j.charge_period_end, j.tracking_server, j.workspace, j.run_id
