"""Describes the result of a measurement in one sentence. Figures for reports come from the tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa


def describe_found(uri: str, rows: pa.Table, dangling: pa.Table | None) -> str:
    """Describe objects, bytes by class, and findings: noncurrent versions, duplicate bytes, orphans, owners without bytes.

    rows: of `artifact_bytes`; those that are still valid are counted.
    """
    import pyarrow.compute as pc

    held = rows.filter(pc.is_null(rows["valid_to"]))
    orphans = held.filter(pc.equal(held["owner_kind"], "orphan"))
    confirmed = orphans.filter(pc.is_valid(orphans["confirmed_at"]))
    classes = held.group_by("storage_class").aggregate([("bytes", "sum")]).sort_by("storage_class").to_pylist()
    parts = [
        f"{_sum(held['objects']):,} objects",
        ", ".join(f"{row['bytes_sum'] or 0:,} bytes {row['storage_class']}" for row in classes) or "0 bytes",
        _told(held["noncurrent_bytes"], "in versions that are not current"),
        _told(held["duplicate_bytes"], "there twice"),
        f"{_sum(confirmed['bytes']):,} orphaned",
        f"{_sum(orphans['bytes']) - _sum(confirmed['bytes']):,} without an owner after one reading",
        f"{0 if dangling is None else dangling.num_rows:,} owners with nothing there",
    ]
    if held.num_rows and (oldest := pc.min(held["oldest_at"]).as_py()):
        parts.insert(1, f"written {oldest:%Y-%m-%d} to {pc.max(held['newest_at']).as_py():%Y-%m-%d}")
    return f"{uri}: {'; '.join(parts)}"


def _told(column: Any, what: str) -> str:
    """Describe a sum, unless the store does not give one."""
    known = len(column) > column.null_count or not len(column)
    return f"{_sum(column):,} {what}" if known else f"unknown {what}"


def _sum(column: Any) -> int:
    import pyarrow.compute as pc

    return int(pc.sum(column).as_py() or 0)
