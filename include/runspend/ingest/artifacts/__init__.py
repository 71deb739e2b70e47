"""Measure the bytes in artifact stores and find their owners. Only the configured stores are contacted.

    measure.py         one measurement: from a listing to the rows of `artifact_bytes` and `dangling_owners`
    blobs.py           lists Google Cloud Storage and Azure
    s3_inventory.py    reads Amazon S3 Inventory instead of listing a bucket
    staging.py         stores a listing in progress, so that it can continue after an interruption
    carry_forward.py   carries earlier rows forward to the month of the pipeline run
    summary.py         describes the result of a measurement in a sentence
    ownership.sql      finds the owner of each folder (the longest matching prefix), and duplicate objects
    intervals.sql      finds the changes since the last measurement, and confirms orphans
    dangling.sql       finds owners whose folder is empty
    unknown.sql        finds owners whose bytes are unknown after an interrupted listing

The cost of bytes, and the decision to move them, do not belong here.
"""

from runspend.ingest.artifacts.measure import Measurement, Readings, measure_store, probe_store
from runspend.storage.uris import allowed, resolve_artifact_uri, store_slug

__all__ = ["Measurement", "Readings", "allowed", "measure_store", "probe_store", "resolve_artifact_uri", "store_slug"]
