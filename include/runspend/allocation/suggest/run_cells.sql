-- Those groups of runs without a machine that ran longest.
with {left_runs}
select cell, tracking_server, experiment_name, user_name, source_name, wants_gpus, count(distinct run_id) as runs, sum(micros) as micros
from numbered
group by cell, tracking_server, experiment_name, user_name, source_name, wants_gpus
order by micros desc, cell
limit {most}
