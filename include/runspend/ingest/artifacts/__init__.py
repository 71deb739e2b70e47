"""What lies in the artifact stores, in bytes, and whose it is. Nothing outside the configured stores is ever contacted.

    roots.py       which URIs lie inside a store: text only, no connection
    listing.py     what a listing yields and counts
    local.py       flat listing of a folder
    s3.py          flat listing of a bucket or prefix, versions included
    blobs.py       the same of Google Cloud Storage and Azure
    inventory.py   Amazon S3 Inventory in place of a listing
    words.py       what was found, in a sentence
    staging.py     a listing on its way, kept when it breaks off
    months.py      what was known before, carried to the month of the night
    measure.py     listing -> owners -> stretches of time, the rows of `artifact_bytes` and `dangling_owners`
    ownership.sql  longest prefix wins; what lies there twice
    intervals.sql  what changed since the last measurement; which orphans are confirmed
    dangling.sql   owners with nothing in their folder
    unknown.sql    owners nothing is known of, after a listing that broke off

What bytes cost, and which of them may be moved, does not belong here.
"""

from runspend.ingest.artifacts.measure import Measurement, Readings, measure_store, probe_store
from runspend.storage.uris import allowed, resolve_artifact_uri, store_slug

__all__ = ["Measurement", "Readings", "allowed", "measure_store", "probe_store", "resolve_artifact_uri", "store_slug"]
