-- The number of runs with time that no bill covers yet and that could not be estimated, by reason.
select reason, count(distinct concat(tracking_server, '/', workspace, '/', run_id)) as runs
from run_estimates
where charge_date >= @first and reason is not null
  and (charge_date < @next or not exists (select 1 from cost_daily where charge_date >= @next))
group by reason
order by reason
