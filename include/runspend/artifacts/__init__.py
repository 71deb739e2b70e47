"""What lies in the artifact stores, in bytes, and whose it is. Nothing outside the configured stores is ever contacted.

    roots.py       which URIs lie inside a store: text only, no connection
    listing.py     what a listing yields and counts
    local.py       flat listing of a folder
    s3.py          flat listing of a bucket or prefix
    measure.py     listing -> owners -> stretches of time, the rows of `artifact_bytes`
    ownership.sql  longest prefix wins
    intervals.sql  what changed since the last measurement
    unknown.sql    owners nothing is known of, after a listing that broke off

What bytes cost, and which of them may be moved, does not belong here.
"""

from runspend.artifacts.measure import Measurement, measure_store, probe_store
from runspend.artifacts.roots import allowed, resolve_artifact_uri, store_slug

__all__ = ["Measurement", "allowed", "measure_store", "probe_store", "resolve_artifact_uri", "store_slug"]
