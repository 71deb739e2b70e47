-- One row per folder and storage class of the run's artifacts, and interval in which the measured bytes were valid. Newest first.
select store, prefix, storage_class, valid_from, valid_to, objects, bytes
from artifact_bytes
where owner_kind = 'run' and owner_id = @run_id and tracking_server = @server
order by valid_from desc, store, storage_class
