-- one row per machine and calendar month in which a run that states it was running
select distinct s.resource_key, month
from run_spans s
cross join unnest(generate_date_array(date_trunc(date(s.span_start), month), date(timestamp_sub(s.span_end, interval 1 microsecond)), interval 1 month)) as month
