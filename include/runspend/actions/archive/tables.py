"""The table `archive_objects`, rebuilt from the records: every object that was ever acted on, with its progress."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from runspend.actions.archive.archive_records import ArchiveRecords
from runspend.schema.tables import ARCHIVE_OBJECTS
from runspend.warehouse.records import Records

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["objects_table"]


def objects_table(records: Records) -> pa.Table:
    """Return the rows of `archive_objects`, all months."""
    import pyarrow as pa

    archive_records = ArchiveRecords(records)
    rows = [
        {
            "month": datetime.fromisoformat(archive.planned_at).date().replace(day=1), "archive_id": archive.archive_id, "key": entry.key, "state": entry.state,
            "bytes": entry.size, "sha256": entry.sha256, "data": entry.data, "etag": entry.etag, "version": entry.version, "storage_class": entry.storage_class,
            "modified_at": datetime.fromisoformat(entry.modified), "reason": entry.reason,
        }
        for archive in archive_records.all()
        for entry in archive_records.every_entry(archive)
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=ARCHIVE_OBJECTS.arrow_schema())
