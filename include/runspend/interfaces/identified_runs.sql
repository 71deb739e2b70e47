-- Runs since @since by server, experiment and user: how many are identified, since when, and the hours and the cost of the others.
-- A run is identified if it, or one of its ancestors, names a machine or a job.
-- Has one row per group and currency of the cost.
with recursive recent as (
  select
    r.tracking_server, r.workspace, r.run_id, r.start_time, r.parent_run_id,
    coalesce(r.experiment_name, r.experiment_id, '(no experiment)') as experiment,
    coalesce(r.user_name, '(no user)') as person,
    coalesce(array_length(r.resource_ids), 0) > 0 or r.job_key is not null as names_own,
    greatest(timestamp_diff(coalesce(r.end_time, r.last_sign_at, @now), r.start_time, microsecond) / 3600000000, 0.0) as hours
  from runs r
  where r.start_time >= @since and r.purged_at is null
),
ancestors as (
  select tracking_server, workspace, run_id, parent_run_id, 1 as distance
  from recent
  where not names_own and parent_run_id is not null
  union all
  select a.tracking_server, a.workspace, a.run_id, p.parent_run_id, a.distance + 1
  from ancestors a
  join runs p on p.tracking_server = a.tracking_server and p.workspace = a.workspace and p.run_id = a.parent_run_id
  where p.parent_run_id is not null and a.distance < 50
),
by_ancestor as (
  select distinct a.tracking_server, a.workspace, a.run_id
  from ancestors a
  join runs p on p.tracking_server = a.tracking_server and p.workspace = a.workspace and p.run_id = a.parent_run_id
  where coalesce(array_length(p.resource_ids), 0) > 0 or p.job_key is not null
),
judged as (
  select r.*, r.names_own or b.run_id is not null as is_identified
  from recent r
  left join by_ancestor b on b.tracking_server = r.tracking_server and b.workspace = r.workspace and b.run_id = r.run_id
),
counted as (
  select
    tracking_server, workspace, experiment, person, count(*) as runs, count(case when is_identified then run_id end) as identified,
    min(case when is_identified then start_time end) as since, coalesce(sum(case when is_identified then 0 else hours end), 0) as hours
  from judged
  group by tracking_server, workspace, experiment, person
),
costs as (
  select j.tracking_server, j.workspace, j.experiment, j.person, c.billing_currency, sum(c.effective_cost) as cost
  from judged j
  join run_costs c on c.tracking_server = j.tracking_server and c.workspace = j.workspace and c.run_id = j.run_id
  where not j.is_identified and c.start_month >= date_trunc(date(@since), month) and c.billing_currency <> ''
  group by j.tracking_server, j.workspace, j.experiment, j.person, c.billing_currency
)
select
  g.tracking_server, g.workspace, g.experiment, g.person, g.runs, g.identified, g.since, g.hours, c.billing_currency as currency, c.cost,
  row_number() over (partition by c.billing_currency order by c.cost desc, g.hours desc, g.tracking_server, g.workspace, g.experiment, g.person) as place
from counted g
left join costs c on c.tracking_server = g.tracking_server and c.workspace = g.workspace and c.experiment = g.experiment and c.person = g.person
order by tracking_server, workspace, experiment, person, currency
