"""Measures the bytes in artifact stores, and their owners. Contacts nothing outside the configured stores.

    blobs.py           listing of Google Cloud Storage and Azure
    s3_inventory.py    Amazon S3 Inventory in place of a listing
    summary.py         the result of a measurement, in a sentence
    staging.py         a listing in progress, kept when it is interrupted
    carry_forward.py   earlier rows, carried forward to the month of the pipeline run
    measure.py     listing -> owners -> stretches of time, the rows of `artifact_bytes` and `dangling_owners`
    ownership.sql  longest prefix wins; duplicate objects
    intervals.sql  changes since the last measurement; confirmed orphans
    dangling.sql   owners with nothing in their folder
    unknown.sql    owners with unknown bytes, after an interrupted listing

The cost of bytes, and the decision to move them, do not belong here.
"""

from runspend.ingest.artifacts.measure import Measurement, Readings, measure_store, probe_store
from runspend.storage.uris import allowed, resolve_artifact_uri, store_slug

__all__ = ["Measurement", "Readings", "allowed", "measure_store", "probe_store", "resolve_artifact_uri", "store_slug"]
