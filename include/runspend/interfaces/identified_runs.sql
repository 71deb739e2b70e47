-- Runs since @since by experiment and user: how many name a machine or a job, from when on, and the hours and the cost of the others.
-- A run that names nothing has the machines of its parent.
with recent as (
  select
    r.tracking_server, r.workspace, r.run_id, r.start_time,
    coalesce(r.experiment_name, r.experiment_id, '(no experiment)') as experiment,
    coalesce(r.user_name, '(no user)') as person,
    array_length(r.resource_ids) > 0 or r.job_key is not null
      or coalesce(array_length(p.resource_ids), 0) > 0 or p.job_key is not null as is_identified,
    greatest(timestamp_diff(coalesce(r.end_time, r.last_sign_at, @now), r.start_time, microsecond) / 3600000000, 0.0) as hours
  from runs r
  left join runs p on p.tracking_server = r.tracking_server and p.workspace = r.workspace and p.run_id = r.parent_run_id
  where r.start_time >= @since and r.purged_at is null
),
costs as (
  select c.tracking_server, c.workspace, c.run_id, sum(c.effective_cost) as cost,
    min(c.billing_currency) as first_currency, max(c.billing_currency) as last_currency
  from run_costs c
  where c.start_month >= date_trunc(date(@since), month) and c.billing_currency <> ''
  group by c.tracking_server, c.workspace, c.run_id
)
select
  r.experiment, r.person, count(*) as runs, count(case when r.is_identified then r.run_id end) as identified,
  min(case when r.is_identified then r.start_time end) as since,
  coalesce(sum(case when r.is_identified then 0 else r.hours end), 0) as hours,
  -- Costs in several currencies have no sum.
  case when min(c.first_currency) = max(c.last_currency) then sum(case when r.is_identified then null else c.cost end) end as cost,
  max(c.last_currency) as currency
from recent r
left join costs c on c.tracking_server = r.tracking_server and c.workspace = r.workspace and c.run_id = r.run_id
group by r.experiment, r.person
order by cost desc nulls last, hours desc, experiment, person
