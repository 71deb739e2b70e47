-- one row per life of a job and run that ran in it: the run's own time
with lives as (
  select job_key, life, run_number, min(run_end_rule) as run_end_rule, min(weight_kind) as weight_kind, cast(sum(u.ticks) as int64) as ticks
  from job_uses u
  group by job_key, life, run_number
  having sum(u.ticks) > 0
),
run_names as (
  select resource_key as job_key, run_number, tracking_server, workspace, run_id, logical_or(is_ambiguous) as is_ambiguous
  from run_intervals
  group by resource_key, run_number, tracking_server, workspace, run_id
)
select l.job_key, l.life, l.run_number, r.tracking_server, r.workspace, r.run_id, r.is_ambiguous, m.run_id is not null as is_by_machine, l.run_end_rule, l.weight_kind, l.ticks
from lives l
join run_names r on r.job_key = l.job_key and r.run_number = l.run_number
left join (select distinct resource_key as job_key, tracking_server, run_id from run_spans where is_by_machine) m
  on m.job_key = l.job_key and m.tracking_server = r.tracking_server and m.run_id = r.run_id
