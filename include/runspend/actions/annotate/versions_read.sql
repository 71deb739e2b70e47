-- Whether an extract has read the registered model versions of a server: one row.
select count(*) > 0 as is_read
from tracking_reads
where tracking_server = @server and kind = 'model_versions'
