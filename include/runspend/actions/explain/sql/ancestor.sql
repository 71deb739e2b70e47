-- One row: a run of the given server, and the id of its parent run.
select run_id, parent_run_id from runs where run_id = @run_id and tracking_server = @server
