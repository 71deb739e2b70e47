-- one row per machine and calendar month in which a run that states the machine was active.
with stretches as (
  select distinct
    resource_key, date_trunc(date(span_start), month) as first_month, date_trunc(date(timestamp_sub(span_end, interval 1 microsecond)), month) as last_month
  from run_spans
)
select distinct s.resource_key, month
from stretches s
cross join unnest(generate_date_array(date(s.first_month), date(s.last_month), interval 1 month)) as month
union distinct
-- A run that ends at or before its start has no time range, but it still used the machine.
select s.resource_key, date(date_trunc(date(r.start_time), month)) as month
from window_runs r
join stated_machines s on s.tracking_server = r.tracking_server and s.run_id = r.run_id
where r.end_time <= r.start_time
