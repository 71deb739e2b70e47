-- The rows from an earlier pipeline run, for metrics of one month that have no new points and would be read at the same steps.
-- From `previous_power`.
insert into known_power
select p.*
from previous_power p
join power_wanted w
  on w.workspace = p.workspace and w.run_id = p.run_id and w.metric = p.metric and w.resource_id = p.resource_id
  and w.last_step = p.last_step and w.step_stride = p.step_stride
where w.start_month = $month
