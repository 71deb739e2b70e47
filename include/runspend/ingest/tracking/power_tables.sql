-- The inputs and the output of `power_wanted.sql`: machines with measured power, machines that the runs of a pool may use, and the power
-- metrics of runs on measured machines.
create table measured_machines (machine varchar);
create table pool_machines (pool varchar, machine varchar);
create table power_wanted (
  workspace varchar, run_id varchar, start_month date, start_ms bigint, metric varchar, gpu bigint, resource_id varchar, last_step bigint, step_stride bigint
);
