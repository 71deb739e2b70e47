-- one row per life of a job and run that ran in it: the run's own time
with marked_uses as (
  select
    j.resource_key as job_key, w.life, u.machine_number, u.run_number, u.run_end_rule, u.weight_kind, u.weight, u.other_weight, u.used_from, u.used_to,
    case when u.used_from <= max(u.used_to) over (
      partition by u.machine_number, w.life, u.run_number order by u.used_from, u.used_to
      rows between unbounded preceding and 1 preceding) then 0 else 1 end as begins
  from slot_uses u
  join (select distinct machine_number, resource_key from run_intervals) j on j.machine_number = u.machine_number
  join job_windows w on w.job_key = j.resource_key and w.charge_period_start = u.charge_period_start and w.charge_period_end = u.charge_period_end
),
numbered_uses as (
  -- Charge periods may overlap, such as a credit for a day and hourly usage. Time that is in two charge periods counts once.
  select
    job_key, life, machine_number, run_number, run_end_rule, weight_kind, weight, other_weight, used_from, used_to,
    sum(begins) over (
      partition by machine_number, life, run_number order by used_from, used_to rows between unbounded preceding and current row) as stretch
  from marked_uses
),
stretches as (
  select
    job_key, life, machine_number, run_number, stretch, min(run_end_rule) as run_end_rule, min(weight_kind) as weight_kind, max(weight) as weight, max(other_weight) as other_weight,
    min(used_from) as used_from, max(used_to) as used_to
  from numbered_uses
  group by job_key, life, machine_number, run_number, stretch
),
lives as (
  select
    s.machine_number, s.job_key, s.life, s.run_number, min(s.run_end_rule) as run_end_rule, case when max(b.other_clock - a.other_clock) = 0 then min(s.weight_kind) end as weight_kind,
    cast(sum(s.weight * (b.share_clock - a.share_clock) + s.other_weight * (b.other_clock - a.other_clock)) as int64) as ticks
  from stretches s
  join machine_clock a on a.machine_number = s.machine_number and a.mark = s.used_from
  join machine_clock b on b.machine_number = s.machine_number and b.mark = s.used_to
  group by s.machine_number, s.job_key, s.life, s.run_number
  having sum(s.weight * (b.share_clock - a.share_clock) + s.other_weight * (b.other_clock - a.other_clock)) > 0
),
run_names as (
  select machine_number, run_number, tracking_server, workspace, run_id, logical_or(is_ambiguous) as is_ambiguous, min(other_kind) as other_kind
  from run_intervals
  group by machine_number, run_number, tracking_server, workspace, run_id
)
select l.machine_number, l.job_key, l.life, l.run_number, r.tracking_server, r.workspace, r.run_id, r.is_ambiguous, m.run_id is not null as is_by_machine, l.run_end_rule, coalesce(l.weight_kind, r.other_kind) as weight_kind, l.ticks
from lives l
join run_names r on r.machine_number = l.machine_number and r.run_number = l.run_number
left join (select distinct resource_key as job_key, tracking_server, run_id from run_spans where is_by_machine) m
  on m.job_key = l.job_key and m.tracking_server = r.tracking_server and m.run_id = r.run_id
