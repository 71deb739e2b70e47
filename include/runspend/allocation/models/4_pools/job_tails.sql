-- one row per life of a job, run, and machine of the job that other lines name: the run's share of that life.
-- It is used for lines before, between and after the job's own charge periods, because its machines start earlier and stop later.
select
  concat('machine|', m.resource_key) as target_key, m.job_key, m.billed_from, m.billed_until,
  l.tracking_server, l.workspace, l.run_id, l.run_end_rule, l.weight_kind, l.is_ambiguous, cast(round(l.ticks / 64) as int64) as nanoseconds
from job_machines m
join job_lives l on l.job_key = m.job_key and l.life = m.life
join attachable_machines a on a.attached_to = m.resource_key
where l.ticks >= 32
