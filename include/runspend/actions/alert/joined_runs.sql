-- The daily costs of runs, joined with the run and its experiment. Other queries insert this text in place of the word runs in braces.
from run_costs_daily as c
inner join runs as r
  on r.tracking_server = c.tracking_server
  and r.workspace = c.workspace
  and r.run_id = c.run_id
left join experiments as x
  on x.tracking_server = r.tracking_server
  and x.workspace = r.workspace
  and x.experiment_id = r.experiment_id
