"""Owners of artifacts, as the pipeline gives them to a measurement."""

from __future__ import annotations

import pyarrow as pa

OWNER_SCHEMA = pa.schema(
    [(n, pa.string()) for n in ("owner_kind", "owner_id", "tracking_server", "workspace", "experiment_id", "uri")]
    + [("is_purged", pa.bool_())]
)


def run_owners(*uris: str) -> pa.Table:
    """Make one run per URI. Its id is the last folder of the URI, except `artifacts`."""
    ids = [uri.removesuffix("/artifacts").rpartition("/")[2] for uri in uris]
    rows = [
        {"owner_kind": "run", "owner_id": i, "tracking_server": "prod", "workspace": "default", "experiment_id": "1", "uri": uri}
        for i, uri in zip(ids, uris, strict=True)
    ]
    return pa.Table.from_pylist(rows, OWNER_SCHEMA)
