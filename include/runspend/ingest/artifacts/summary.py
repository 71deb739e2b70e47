"""Describe the result of a measurement in one sentence. Reports take their figures from the tables instead."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa


def describe_found(uri: str, rows: pa.Table, dangling: pa.Table | None) -> str:
    """Return a sentence with the objects, the bytes by storage class, and the findings.

    The findings are noncurrent versions, duplicate bytes, orphaned bytes and owners without objects. `rows` are rows of `artifact_bytes`;
    only those that are still valid are counted.
    """
    import pyarrow.compute as pc

    held = rows.filter(pc.is_null(rows["valid_to"]))
    orphans = held.filter(pc.equal(held["owner_kind"], "orphan"))
    confirmed = orphans.filter(pc.is_valid(orphans["confirmed_at"]))
    classes = held.group_by("storage_class").aggregate([("bytes", "sum")]).sort_by("storage_class").to_pylist()
    parts = [
        f"{_sum(held['objects']):,} objects",
        ", ".join(f"{row['bytes_sum'] or 0:,} bytes {row['storage_class']}" for row in classes) or "0 bytes",
        _bytes_in(held["noncurrent_bytes"], "noncurrent versions"),
        _bytes_in(held["duplicate_bytes"], "duplicate objects"),
        f"{_sum(confirmed['bytes']):,} bytes orphaned",
        f"{_sum(orphans['bytes']) - _sum(confirmed['bytes']):,} bytes without an owner, to be confirmed",
        f"{0 if dangling is None else dangling.num_rows:,} owners without objects",
    ]
    if held.num_rows and (oldest := pc.min(held["oldest_at"]).as_py()):
        parts.insert(1, f"written {oldest:%Y-%m-%d} to {pc.max(held['newest_at']).as_py():%Y-%m-%d}")
    return f"{uri}: {'; '.join(parts)}"


def _bytes_in(column: Any, place: str) -> str:
    """Return a phrase with the sum of a column in bytes, or "unknown" if the store does not report it."""
    is_known = len(column) > column.null_count or not len(column)
    return f"{_sum(column):,} bytes in {place}" if is_known else f"{place} unknown"


def _sum(column: Any) -> int:
    import pyarrow.compute as pc

    return int(pc.sum(column).as_py() or 0)
