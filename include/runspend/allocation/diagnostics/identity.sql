-- Counts of the runs that began in a month, and of the lines of its bills, that identify their machine or run.
with machines as (
  -- Longer and shorter names of the same machine have the same last part.
  select distinct m.resource_key, regexp_extract(m.resource_key, r'[^/]*$') as short_name
  from runs r
  join run_resources m on m.tracking_server = r.tracking_server and m.run_id = r.run_id
  where r.start_month = @first
),
billed as (
  select distinct regexp_extract(resource_key, r'[^/]*$') as short_name from billing_lines where billing_period = @first
),
split as (
  -- Machines that pods or tasks share.
  select distinct regexp_extract(node_key, r'[^/]*$') as short_name from billing_lines where billing_period = @first
)
select
  (select count(*) from runs where start_month = @first) as runs,
  (
    select count(distinct concat(r.tracking_server, '/', r.run_id))
    from runs r join run_resources m on m.tracking_server = r.tracking_server and m.run_id = r.run_id where r.start_month = @first
  ) as machine_runs,
  (
    select count(distinct m.resource_key)
    from machines m left join billed b on b.short_name = m.short_name left join split s on s.short_name = m.short_name
    where b.short_name is null and s.short_name is null
  ) as unbilled_machines,
  (
    select count(distinct m.resource_key)
    from machines m left join billed b on b.short_name = m.short_name join split s on s.short_name = m.short_name
    where b.short_name is null
  ) as split_machines,
  (select count(*) from billing_lines where billing_period = @first and run_tag is not null) as tagged_lines
