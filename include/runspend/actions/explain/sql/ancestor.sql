-- One row: a run of the same server, and its parent.
select run_id, parent_run_id from runs where run_id = @run_id and tracking_server = @server
